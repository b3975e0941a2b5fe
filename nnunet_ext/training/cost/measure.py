"""Peak memory, arithmetic and parameters of a training step, from tensors without contents.

Counted is what lives at a time in storages of tensors: weights, gradients, state of the optimisers, activations, what
losses keep. Buffers inside of an operation (cuDNN's workspaces), the allocator's rounding and CUDA's own context are
not.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.training.cost.simulation import simulated

GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Of a training step.

    Attributes:
        patch_size: voxels by axis.
        batch_size: samples of a step.
        memory: most bytes of all tensors at a time.
        flops: floating-point operations of convolutions and matrix products, forward and backward; a multiplication
            and an addition are two.
        parameters: that are trained, auxiliary networks included.
    """

    patch_size: tuple[int, ...]
    batch_size: int
    memory: int
    flops: int
    parameters: int


class TensorMemory(TorchDispatchMode):
    """Within this context, bytes of all tensors that operations return and that are alive.

    Attributes:
        now: bytes at present.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor, if its storage is not yet; also one that was there before."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def gone(_: weakref.ref[Any]) -> None:
            del self._alive[key]
            self.now -= size

        self._alive[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, result)
        return result


def cost_of_step(
    trainer_class: type[nnUNetTrainer],
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    half_precision: bool = True,
) -> Cost:
    """The cost of a step in the last epoch, where all terms of a loss are on.

    Args:
        trainer_class: of nnU-Net, of this project, or derived from them.
        plans: content of the plans file.
        configuration: of the plans.
        dataset_json: content of dataset.json.
        half_precision: as on CUDA; else in float32, as nnU-Net trains on the CPU.

    Raises:
        UserError: the trainer refuses the plans, or its step depends on the values of tensors, which are not there.
    """
    # In a step of its own: the counter of FLOPs keeps tensors alive for as long as Python's garbage collector lets it.
    memory = memory_of_step(trainer_class, plans, configuration, dataset_json, half_precision)
    with _explained(trainer_class, configuration), simulated(trainer_class, half_precision):
        flops = FlopCounterMode(display=False)
        step = Step(trainer_class, plans, configuration, dataset_json)
        with flops:
            step.run()
        return Cost(
            tuple(step.trainer.configuration_manager.patch_size),
            step.trainer.configuration_manager.batch_size,
            memory,
            flops.get_total_flops(),
            step.parameters(),
        )


def memory_of_step(
    trainer_class: type[nnUNetTrainer],
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    half_precision: bool = True,
) -> int:
    """Most bytes of all tensors at a time: a third of :func:`cost_of_step`'s work, whose arguments it takes.

    Raises:
        UserError: as :func:`cost_of_step`.
    """
    with _explained(trainer_class, configuration), simulated(trainer_class, half_precision):
        step = Step(trainer_class, plans, configuration, dataset_json)
        step.run()
        return step.memory.peak


@contextmanager
def _explained(trainer_class: type, configuration: str) -> Iterator[None]:
    """Any error as one sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever somebody's trainer does
        raise UserError(
            f"A step of {trainer_class.__name__} cannot be simulated on {configuration} ({type(error).__name__}: "
            f"{last_line(error)}): its cost is known from a training on a GPU alone."
        ) from error


class Step:
    """A trainer in its last epoch with a batch of zeros; networks, gradients and optimisers are as after any step.

    Args:
        trainer_class: of nnU-Net, of this project, or derived from them.
        plans: content of the plans file; kept as it is, as is ``dataset_json``.
        configuration: of the plans.
        dataset_json: content of dataset.json.

    Attributes:
        trainer: initialised, within :func:`nnunet_ext.training.cost.simulation.without_data`.
        memory: of all that was made here, and by :meth:`run`.
    """

    def __init__(
        self, trainer_class: type[nnUNetTrainer], plans: dict[str, Any], configuration: str, dataset_json: dict
    ) -> None:
        self.memory = TensorMemory()
        with self.memory:
            self.trainer = trainer = trainer_class(
                {**copy.deepcopy(plans), "continue_training": False},
                configuration,
                0,
                copy.deepcopy(dataset_json),
                torch.device("cpu"),
            )
            prepare = getattr(trainer, "prepare_simulation", None)
            if prepare is not None:
                prepare()
            trainer.initialize()
            trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
            trainer.current_epoch = trainer.num_epochs - 1
            trainer.network.train()
            self._helpers = [*getattr(trainer, "auxiliary", {}).values()]
            for optimizer in (trainer.optimizer, *(helper.optimizer for helper in self._helpers)):
                _make_state(optimizer)
            self.batch = example_batch(trainer)

    def run(self) -> None:
        """A training step; the peak is that of it alone."""
        self.memory.peak = self.memory.now
        with self.memory:
            self.trainer.train_step(self.batch)

    def parameters(self) -> int:
        """Number of those that are trained, of auxiliary networks too."""
        modules = [self.trainer.network, *(helper.module for helper in self._helpers)]
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad)


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """State of an optimiser and gradients, as they are after any step; from now on it steps as it does on CUDA."""
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None:
            group["foreach"] = True  # all parameters at a time, the default on CUDA
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def example_batch(trainer: Any) -> dict[str, Any]:
    """Zeros as the loader gives them: image and targets, and what a trainer adds in ``simulated_batch``."""
    patch, size = list(trainer.configuration_manager.patch_size), trainer.batch_size
    scales = trainer._get_deep_supervision_scales()
    shapes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales or [[1] * len(patch)]]
    channels = len(trainer.label_manager.all_regions) if trainer.label_manager.has_regions else 1
    channels += trainer.label_manager.has_regions and trainer.label_manager.has_ignore_label
    kind = torch.bool if trainer.label_manager.has_regions else torch.int16
    targets = [torch.zeros((size, channels, *shape), dtype=kind) for shape in shapes]
    batch = {
        "data": torch.zeros(size, trainer.num_input_channels, *patch),
        "target": targets if scales is not None else targets[0],
        "keys": [f"case {i}" for i in range(size)],
    }
    extend = getattr(trainer, "simulated_batch", None)
    return batch if extend is None else extend(batch)
