"""A trainer on tensors that have shapes and types but no contents (PyTorch's FakeTensorMode).

The step is the one that nnU-Net runs on CUDA: float16 where autocast puts it there, deep supervision, gradients and the
state of the optimisers. Its tensors say ``cpu``, as the engine of autograd wants the device that they name; the
gradient scaler, which keeps a few numbers, is left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock_module
from torch import distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from nnunet_ext.losses import slabs
from nnunet_ext.networks.dual import DualNetwork
from nnunet_ext.random_states import kept_random_states

# What autocast runs in float32 on CUDA though not on the CPU, of what networks and losses here and in nnU-Net use.
_IN_FLOAT32 = {
    *("cosine_similarity", "cross_entropy", "cumsum", "exp", "kl_div", "l1_loss", "log", "log_softmax", "logsumexp"),
    *("mse_loss", "nll_loss", "norm", "pow", "prod", "smooth_l1_loss", "softmax", "softplus", "sum"),
    *("binary_cross_entropy_with_logits", "layer_norm", "group_norm"),
}
# Trainers read these where they would fetch weights or report to a service.
_ENVIRONMENT = {
    "nnUNet_compile": "f",
    "nnUNet_wandb_enabled": "0",
    "NNUNET_EXT_VGG19": "random",
    "NNUNET_EXT_RESNET18": "random",
}


class SimulatedTensors(FakeTensorMode):
    """FakeTensorMode in which a copy of a network, a teacher's, stays in the same simulation."""

    def __deepcopy__(self, memo: dict[int, Any]) -> SimulatedTensors:
        return self


def zeros_of(tensor: torch.Tensor, *_: Any, **__: Any) -> np.ndarray:
    """In place of ``Tensor.numpy``: zeros."""
    assert tensor.device.type == "cpu"
    return np.zeros(tuple(tensor.shape), np.float32)


def copy_of(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
    """In place of ``Tensor.__deepcopy__``, which gives parameters without contents a copy of their gradient too."""
    if id(tensor) not in memo:
        copied = tensor.detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
    return memo[id(tensor)]


def module_to(module: nn.Module, device: torch.device) -> nn.Module:
    """In place of ``Module.to``, which cannot change a tensor without contents in place."""
    for each in module.modules():
        for name, parameter in each._parameters.items():
            if parameter is not None and parameter.device != device:
                each._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = buffer.to(device)
    return module


class _Values(TorchDispatchMode):
    """Numbers that the host asks for are 1: yes to every question, and a step of Adam that it can divide by."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket is torch.ops.aten._local_scalar_dense:
            return 1.0 if args[0].is_floating_point() else 1
        return func(*args, **(kwargs or {}))


class _CudaPrecision(TorchFunctionMode):
    """Casts what CUDA's autocast would."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _IN_FLOAT32:
            args, kwargs = tree_map_only(
                torch.Tensor, lambda each: each.float() if each.dtype is torch.float16 else each, (args, kwargs)
            )
        return func(*args, **kwargs)


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Autocast of CPU tensors to float16, as on CUDA."""
    with torch.autocast("cpu", torch.float16), _CudaPrecision():
        yield


@contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def without_data(trainer_class: type, half_precision: bool = True) -> Iterator[None]:
    """Within this context a trainer of this class writes and reads nothing, and runs on the CPU as it would on CUDA.

    Args:
        trainer_class: nnU-Net's trainer or one derived from it.
        half_precision: float16 where CUDA's autocast has it; else float32, as nnU-Net trains on the CPU.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        folders = dict.fromkeys(("nnUNet_preprocessed", "nnUNet_results"), folder)
        stack.enter_context(_environment({**_ENVIRONMENT, **folders}))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        replacements: list[tuple[Any, str, Any]] = [
            (stock_module, "infer_dataset_class", lambda _: nnUNetDatasetBlosc2),
            (slabs, "_CPU_VOXELS", slabs._DEVICE_VOXELS),
            (dist, "is_initialized", lambda: False),  # other processes take no part
        ]
        if half_precision:  # where nnU-Net's step has autocast on CUDA, it has a context that does nothing on the CPU
            modules = {sys.modules[each.__module__] for each in trainer_class.__mro__}
            replacements += [(m, "dummy_context", cuda_autocast) for m in modules if hasattr(m, "dummy_context")]
        for replacement in replacements:
            stack.enter_context(_replaced(*replacement))
        stack.enter_context(kept_random_states())
        yield


@contextmanager
def simulated(trainer_class: type, half_precision: bool = True) -> Iterator[SimulatedTensors]:
    """As :func:`without_data`, and tensors have no contents."""
    mode = SimulatedTensors()
    with ExitStack() as stack:
        stack.enter_context(without_data(trainer_class, half_precision))
        replacements: list[tuple[Any, str, Any]] = [
            (nn.Module, "to", module_to),
            (torch.Tensor, "__deepcopy__", copy_of),
            (torch.Tensor, "numpy", zeros_of),
            (torch.Tensor, "tolist", lambda tensor: zeros_of(tensor).tolist()),
            (DualNetwork, "_read_weights", lambda _: (0.5, 0.5)),
        ]
        for replacement in replacements:
            stack.enter_context(_replaced(*replacement))
        stack.enter_context(mode)
        stack.enter_context(_Values())
        yield mode
