"""What a benchmark changes in a plan that nnU-Net made, and whether a plan that is there has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from nnunet_ext.benchmark.spec import Plans
from nnunet_ext.core.errors import UserError

_SPACED = ("2d", "3d_fullres")  # the others have a spacing of their own


def change(configuration: dict[str, Any], plans: Plans) -> None:
    """Make the changes that are asked for in a configuration of a plans file.

    Raises:
        UserError: there are more stages than features.
    """
    arguments = configuration["architecture"]["arch_kwargs"]
    if plans.batch_size is not None:
        configuration["batch_size"] = plans.batch_size
    if plans.patch_size is not None:
        configuration["patch_size"] = list(plans.patch_size[-len(configuration["patch_size"]) :])
    if plans.features is not None:
        if len(plans.features) < arguments["n_stages"]:
            raise UserError(
                f"plans {plans.name} have {len(plans.features)} features for {arguments['n_stages']} stages: name more."
            )
        arguments["features_per_stage"] = list(plans.features[: arguments["n_stages"]])


def contradiction(content: Mapping[str, Any], name: str, plans: Plans) -> str | None:
    """Where a plans file that is there is not what is asked for, as words; ``None`` where it is.

    Args:
        content: of the plans file.
        name: of the configuration.
        plans: what is asked for.
    """
    own = content["configurations"][name]
    if "architecture" not in own:  # it inherits from one that is compared itself
        return None
    wanted = deepcopy(own)
    change(wanted, plans)
    asked = {key: (own[key], wanted[key]) for key in ("batch_size", "patch_size")}
    features = (configuration["architecture"]["arch_kwargs"]["features_per_stage"] for configuration in (own, wanted))
    asked["features"] = next(features), next(features)
    if plans.spacing is not None and name in _SPACED:
        order = content.get("transpose_forward", range(len(plans.spacing)))
        spacing = [plans.spacing[axis] for axis in order][-len(own["spacing"]) :]
        if not all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(own["spacing"], spacing, strict=True)):
            asked["spacing"] = own["spacing"], spacing
    return next((f"{key} {a} in {name}, not {b}" for key, (a, b) in asked.items() if a != b), None)
