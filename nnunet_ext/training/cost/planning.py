"""Plans whose patches and batches fit a trainer that needs more memory than stock nnU-Net.

nnU-Net's planner shrinks the patch until an estimate of the stock network's memory fits a target, then fills what is
left with samples. Here the target is divided by the ratio of the trainer's memory to stock's, which is the same as
multiplying the estimate.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.planners import planner_of
from nnunet_ext.training.cost.measure import memory_of_step

_ROUNDS = 5  # the ratio depends a little on the patch, which depends on the ratio
_TOLERANCE = 1.02
# What the size of the patch decides; all else is kept.
_REPLACED = ("patch_size", "batch_size", "architecture")


def plans_for(
    trainer_class: type[nnUNetTrainer],
    dataset: str,
    plans: dict[str, Any],
    dataset_json: dict[str, Any],
    name: str,
    gpu_memory_gb: float | None = None,
) -> tuple[dict[str, Any], dict[str, tuple[int, float] | UserError]]:
    """Plans of another name; preprocessed data are those of the given plans.

    Args:
        trainer_class: whose patches and batches they hold.
        dataset: name of the dataset, raw and with a fingerprint.
        plans: content of the plans to start from.
        dataset_json: content of dataset.json.
        name: of the new plans.
        gpu_memory_gb: the planner's target, for which it would plan stock nnU-Net; default: the planner's own.

    Returns:
        Content of the new plans; by configuration that was planned, bytes of a step and their ratio to stock's, or why
        it is as it was.

    Raises:
        UserError: nnU-Net has not the planner that made the plans, or no configuration suits the trainer.
    """
    made = copy.deepcopy(plans) | {"plans_name": name}
    outcome: dict[str, tuple[int, float] | UserError] = {}
    for configuration, content in plans["configurations"].items():
        if "patch_size" not in content:  # it inherits another one
            continue
        ratio = 1.0
        # A batch holds a share of the dataset at most: of volumes, for slices too.
        whole = plans["configurations"].get("3d_fullres", content) if len(content["spacing"]) == 2 else content
        try:
            for _ in range(_ROUNDS):
                planned = _plan(plans, dataset, content, whole, name, gpu_memory_gb, ratio)
                made["configurations"][configuration] = content | {key: planned[key] for key in _REPLACED}
                own = stock = memory_of_step(trainer_class, made, configuration, dataset_json)
                if trainer_class is not nnUNetTrainer:
                    stock = memory_of_step(nnUNetTrainer, made, configuration, dataset_json)
                found = own / stock
                outcome[configuration] = own, found
                if found <= ratio * _TOLERANCE:
                    break
                ratio = found
        except UserError as error:
            made["configurations"][configuration] = copy.deepcopy(content)
            outcome[configuration] = error
    if all(isinstance(each, UserError) for each in outcome.values()):
        raise next(each for each in outcome.values() if isinstance(each, UserError))
    return made, outcome


def _plan(
    plans: dict[str, Any],
    dataset: str,
    content: dict[str, Any],
    whole: dict[str, Any],
    name: str,
    gpu_memory_gb: float | None,
    ratio: float,
) -> dict[str, Any]:
    """A configuration as the planner makes it for a network that needs ``ratio`` times the memory.

    ``whole`` is the configuration whose median image the size of the dataset is counted in.
    """
    from nnunetv2.utilities.json_export import recursive_fix_for_json_export

    planner = planner_of(plans, dataset, name, content["preprocessor_name"], gpu_memory_gb)
    planner.UNet_vram_target_GB /= ratio
    spacing, shape = (np.array(content[key], dtype=float) for key in ("spacing", "median_image_size_in_voxels"))
    fingerprint = planner.dataset_fingerprint["shapes_after_crop"]
    voxels = float(np.prod(whole["median_image_size_in_voxels"])) * len(fingerprint)
    planned: dict[str, Any] = planner.get_plans_for_configuration(
        spacing, shape, content["data_identifier"], voxels, {}
    )
    recursive_fix_for_json_export(planned)
    return planned
