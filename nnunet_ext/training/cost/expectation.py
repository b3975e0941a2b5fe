"""What a trainer says at its start: the memory that a step is expected to need, and that of the GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.training.cost.measure import GIB, memory_of_step
from nnunet_ext.training.run_length import strip_run_length

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def expectation(trainer: nnUNetTrainer) -> str:
    """One sentence of what the trainer needs and what its GPU has; it names ``nnunet-ext plan-for`` where that is less.

    A step is simulated, which takes one to four seconds. What cannot be known is said, never raised. With several GPUs
    the batch is that of one; buffers of DistributedDataParallel are not counted.

    Args:
        trainer: initialised, on CUDA.
    """
    name, configuration = strip_run_length(type(trainer).__name__), trainer.configuration_name
    plans = trainer.plans_manager.plans
    own = plans["configurations"][configuration] | {"batch_size": trainer.batch_size}
    plans = plans | {"configurations": plans["configurations"] | {configuration: own}}
    try:
        needed = memory_of_step(type(trainer), plans, configuration, trainer.dataset_json) / GIB
    except UserError as error:
        return f"The memory that training needs is not known: {error}"
    said = f"A step of {name} on {configuration} is expected to need {needed:.1f} GiB of GPU memory and cuDNN's buffers"
    try:
        free, total = torch.cuda.mem_get_info(trainer.device)
        free += torch.cuda.memory_reserved(trainer.device)  # by this process, for this very training
    except RuntimeError as error:
        return f"{said}; what the GPU has is not known ({last_line(error)})."
    said += f"; the GPU has {total / GIB:.1f} GiB, of which {free / GIB:.1f} GiB are free"
    if needed * GIB <= free:
        return f"{said}."
    dataset, made = trainer.plans_manager.dataset_name, trainer.plans_manager.plans_name
    return f"{said}: plans that fit are written by nnunet-ext plan-for {name} -d {dataset} -p {made} -o NAME."
