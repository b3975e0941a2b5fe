"""What a benchmark changes in a plan that nnU-Net made, and whether a plan that is there has it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.spec import Plans
from nnunet_ext.core.errors import UserError

_SPACED = ("2d", "3d_fullres")  # the others have a spacing of their own


def change(configuration: dict[str, Any], plans: Plans) -> None:
    """Make the changes that are asked for in a configuration of a plans file.

    Raises:
        UserError: there are more stages than features, or the strides of the network do not divide the patch.
    """
    arguments = configuration["architecture"]["arch_kwargs"]
    if plans.batch_size is not None:
        configuration["batch_size"] = plans.batch_size
    if plans.patch_size is not None:
        configuration["patch_size"] = _patch(configuration, plans)
    if plans.features is not None:
        if len(plans.features) < arguments["n_stages"]:
            raise UserError(
                f"plans {plans.name} have {len(plans.features)} features for {arguments['n_stages']} stages: name more."
            )
        arguments["features_per_stage"] = list(plans.features[: arguments["n_stages"]])


def _patch(configuration: Mapping[str, Any], plans: Plans) -> list[int]:
    assert plans.patch_size is not None
    axes = len(configuration["patch_size"])
    patch = list(plans.patch_size[-axes:])
    if len(patch) < axes:
        raise UserError(f"plans {plans.name}: patch_size {patch} has {len(patch)} numbers: name {axes}.")
    strides = configuration["architecture"]["arch_kwargs"]["strides"]
    steps = [math.prod(stride[axis] for stride in strides) for axis in range(axes)]
    if any(size % step for size, step in zip(patch, steps, strict=True)):
        raise UserError(
            f"plans {plans.name}: a patch_size of {patch} does not fit the strides of the network: name multiples of "
            f"{steps}."
        )
    return patch


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
    if plans.spacing is not None and name in _SPACED:
        order = content.get("transpose_forward", range(len(plans.spacing)))
        spacing = [plans.spacing[axis] for axis in order][-len(own["spacing"]) :]
        if not all(math.isclose(a, b, abs_tol=1e-6) for a, b in zip(own["spacing"], spacing, strict=True)):
            wanted["spacing"] = spacing
    there, asked = _changeable(own), _changeable(wanted)
    return next((f"{key} {there[key]} in {name}, not {asked[key]}" for key in there if there[key] != asked[key]), None)


def check_changes(benchmark: str, file: Path, plans: Plans, configurations: Sequence[str]) -> None:
    """Refuse a plans file that is there for another plan than the one asked for.

    Args:
        benchmark: name, for the sentence.
        file: of the plans, with all configurations.
        plans: what is asked for.
        configurations: those that are trained.

    Raises:
        UserError: a configuration lacks a change, or holds another.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    for configuration in configurations:
        found = contradiction(content, configuration, plans)
        if found is not None:
            raise UserError(
                f"{benchmark}: {file} is there already, with {found}: give plans {plans.name} another name."
            )


def _changeable(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a benchmark may change, by its name in the file of the benchmark."""
    features = configuration["architecture"]["arch_kwargs"]["features_per_stage"]
    return {key: configuration[key] for key in ("batch_size", "patch_size", "spacing")} | {"features": features}
