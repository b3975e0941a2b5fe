"""Plans whose first axis, along which nnU-Net takes slices, is another one.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), section 4.1.2: one 2D model for each view.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from nnunet_ext.core.errors import UserError
from nnunet_ext.planners import planner_of

# Which axis of the given plans comes first in the second and in the third view.
VIEWS = {2: (1, 0, 2), 3: (2, 0, 1)}


def view_name(plans_name: str, view: int) -> str:
    """Name of the plans of a view."""
    return f"{plans_name}_view{view}"


def turned_plans(plans: dict[str, Any], order: Sequence[int], name: str, plan_2d: dict[str, Any]) -> dict[str, Any]:
    """The same plans for images whose axes come in another order.

    3D configurations keep all they have, axis by axis. A 2D configuration is another one, as its slices have another
    size and spacing.

    Args:
        plans: content of the plans.
        order: positions in the axes of ``plans``, the new first axis first.
        name: of the new plans.
        plan_2d: the configuration ``2d`` for the new slices.

    Returns:
        Content of the new plans. Further 2D configurations are left out.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    turned = copy.deepcopy(plans)
    turned["plans_name"] = name
    forward = [plans["transpose_forward"][i] for i in order]
    turned["transpose_forward"] = forward
    turned["transpose_backward"] = [int(i) for i in np.argsort(forward)]
    for key in ("original_median_spacing_after_transp", "original_median_shape_after_transp"):
        turned[key] = [plans[key][i] for i in order]
    manager = PlansManager(plans)
    for configuration in plans["configurations"]:
        if len(manager.get_configuration(configuration).patch_size) == 2:
            del turned["configurations"][configuration]
        else:
            _turn(turned["configurations"][configuration], order, plans["plans_name"], name)
    turned["configurations"]["2d"] = plan_2d
    return turned


def _turn(configuration: dict[str, Any], order: Sequence[int], old_name: str, name: str) -> None:
    """Change a 3D configuration in place; one that inherits holds only some of the entries."""
    for key in ("patch_size", "spacing", "median_image_size_in_voxels"):
        if key in configuration:
            configuration[key] = [configuration[key][i] for i in order]
    if "data_identifier" in configuration:
        configuration["data_identifier"] = f"{name}_{configuration['data_identifier'].removeprefix(f'{old_name}_')}"
    arguments = configuration.get("architecture", {}).get("arch_kwargs", {})
    for key in ("kernel_sizes", "strides"):
        if key in arguments:
            arguments[key] = [[one[i] for i in order] if isinstance(one, list) else one for one in arguments[key]]


def plan_2d(
    dataset: str, plans: dict[str, Any], order: Sequence[int], name: str, gpu_memory_gb: float | None = None
) -> dict[str, Any]:
    """The configuration ``2d`` that the planner of the plans makes for slices across another axis.

    Args:
        dataset: name of the dataset, raw and with a fingerprint.
        plans: content of the plans, with ``3d_fullres``, whose spacing it has.
        order: see :func:`turned_plans`.
        name: of the new plans.
        gpu_memory_gb: what the planner plans for; default: the planner's own.

    Raises:
        UserError: the images are 2D, or nnU-Net has no such planner.
    """
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    fullres = plans["configurations"].get("3d_fullres")
    if fullres is None:
        raise UserError(f"{plans['plans_name']} has no configuration 3d_fullres: 2D images have one view.")
    planner = planner_of(plans, dataset, name, fullres["preprocessor_name"], gpu_memory_gb)
    spacing = np.array([fullres["spacing"][i] for i in order], dtype=float)
    shape = np.array([fullres["median_image_size_in_voxels"][i] for i in order], dtype=float)
    voxels = float(np.prod(shape)) * planner.dataset_json["numTraining"]
    planned = planner.get_plans_for_configuration(
        spacing[1:], shape[1:], planner.generate_data_identifier("2d"), voxels, {}
    )
    planned["batch_dice"] = True  # as in all of nnU-Net's plans
    recursive_fix_for_json_export(planned)
    return planned
