"""nnU-Net's planners, as the plans name them."""

from __future__ import annotations

from typing import Any

from nnunet_ext.core.errors import UserError


def planner_of(
    plans: dict[str, Any], dataset: str, name: str, preprocessor_name: str, gpu_memory_gb: float | None = None
) -> Any:
    """The planner that made plans, to make others.

    Args:
        plans: content of the plans.
        dataset: name of the dataset, raw and with a fingerprint.
        name: of the plans that it is to make.
        preprocessor_name: of their configurations.
        gpu_memory_gb: what it plans for; default: its own.

    Raises:
        UserError: nnU-Net has no planner of this name.
    """
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    planner_name = plans["experiment_planner_used"]
    found = recursive_find_python_class(
        f"{nnunetv2.__path__[0]}/experiment_planning", planner_name, "nnunetv2.experiment_planning"
    )
    if found is None:
        raise UserError(f"nnU-Net has no planner {planner_name}, which made {plans['plans_name']}: plan anew.")
    memory = {} if gpu_memory_gb is None else {"gpu_memory_target_in_gb": gpu_memory_gb}
    return found(dataset, plans_name=name, preprocessor_name=preprocessor_name, **memory)
