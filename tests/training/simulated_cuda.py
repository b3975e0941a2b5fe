"""Training steps on tensors that say ``cuda`` and have no contents, on any machine.

PyTorch's FakeTensorMode gives every operation's shape, type and device, and raises where a GPU would: on operands of
different devices. What it cannot show: gradients as autograd computes them, as its engine needs the device (here the
backward pass fills those of all parameters that the loss depends on, and runs the backward of our own functions), and
whatever depends on values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from nnunet_ext.training.cost.simulation import SimulatedTensors, module_to, zeros_of

aten = torch.ops.aten
DEVICE = torch.device("cuda", 0)
# Their outcome has a shape that only the values tell, so that the host waits for it.
_OF_UNKNOWN_SHAPE = {aten.nonzero, aten.masked_select, aten._unique2, aten.unique_dim, aten.unique_consecutive}
_VALUES = {aten._local_scalar_dense, aten.equal, aten.is_nonzero}


@dataclass
class Waits(TorchDispatchMode):
    """Counts what makes the host wait for the device, by the name of the operation, and copies that stop the queue.

    Values that the host asks for are 0. ``nonzero`` and the like, which have no shape here, stop the test.
    """

    found: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket
        on_device = any(_on_device(tensor) for tensor in tree_leaves((args, kwargs)))
        if on_device and packet in _OF_UNKNOWN_SHAPE:
            raise AssertionError(f"{packet} waits for the device")
        if on_device and packet is aten.index and _has_mask(args[1]):
            raise AssertionError("an index of booleans waits for the device")
        # nnU-Net sets ignored voxels to one number, for which masked_fill does
        if on_device and packet in (aten.index_put, aten.index_put_) and _has_mask(args[1]) and args[2].numel() > 1:
            raise AssertionError("an assignment by an index of booleans waits for the device")
        if on_device and packet in _VALUES:
            self.found[str(packet)] += 1
            return 0.0 if packet is aten._local_scalar_dense else False
        result = func(*args, **kwargs)
        if packet is aten._to_copy or packet is aten.copy_:
            source = args[0] if packet is aten._to_copy else args[1]
            if _on_device(source) and not _on_device(result):
                self.found["fetch"] += 1
            elif _on_device(result) and source.device.type == "cpu" and not _is_non_blocking(args, kwargs, packet):
                self.found["send"] += 1
        return result


def _on_device(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == DEVICE.type


def _has_mask(indices: Any) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _is_non_blocking(args: Any, kwargs: Any, packet: Any) -> bool:
    return bool(kwargs.get("non_blocking", len(args) > 2 and args[2] if packet is aten.copy_ else False))


@dataclass
class Simulation:
    """What went on in it.

    Attributes:
        waits: see :class:`Waits`.
        reached: of each backward pass, the parameters that it gave a gradient.
        dtypes: of what went into the backward passes, before the scaler, and of the terms for the curves.
    """

    mode: SimulatedTensors
    waits: Waits
    reached: list[list[torch.Tensor]] = field(default_factory=list)
    dtypes: list[torch.dtype] = field(default_factory=list)

    def fake(self, tree: Any) -> Any:
        """The same tensors, on the CPU, without contents."""
        return tree_map_only(torch.Tensor, self.mode.from_tensor, tree)

    def start_counting(self) -> None:
        """Forget what building the networks did."""
        self.waits.found.clear()
        self.reached.clear()
        self.dtypes.clear()

    def record_terms(self, trainer: Any) -> None:
        """Note the types of a trainer's loss and of its terms, as they are before they are fetched."""
        if (fetch := getattr(trainer, "step_output", None)) is None:  # stock
            return

        def noted(loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> dict[str, Any]:
            self.dtypes += [loss.dtype, *(term.dtype for term in terms.values())]
            return fetch(loss, terms)

        trainer.step_output = noted

    def backward(self, loss: torch.Tensor) -> None:
        """In place of ``Tensor.backward``: gradients without contents where autograd would have put some."""
        self.dtypes.append(loss.dtype)
        assert loss.numel() == 1
        reached = [node.variable for node in _graph(loss.grad_fn) if hasattr(node, "variable")]
        for parameter in reached:
            found = torch.zeros_like(parameter, requires_grad=False)
            with torch.no_grad():
                parameter.grad = found if parameter.grad is None else parameter.grad + found
        self.reached.append(reached)


@torch.no_grad()
def _graph(root: Any) -> Iterator[Any]:
    """All nodes of an autograd graph; the backward of Python functions is run on the way."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if hasattr(node, "_forward_cls"):
            above = [torch.zeros(m.shape, dtype=m.dtype, device=m.device) for m in node._input_metadata]
            gradients = node._forward_cls.backward(node, *above)
            assert all(each is None or each.device == DEVICE for each in gradients)
        waiting += [below for below, _ in node.next_functions]


@contextmanager
def simulated_cuda(patch: pytest.MonkeyPatch) -> Iterator[Simulation]:
    """Within this context all tensors are made without contents, and those of ``cuda`` can be."""
    simulation = Simulation(SimulatedTensors(), Waits())
    scale = torch.amp.GradScaler.scale

    def noted_scale(scaler: Any, outputs: torch.Tensor) -> Any:
        simulation.dtypes.append(outputs.dtype)
        return scale(scaler, outputs)

    with patch.context() as patched:
        # Autocast and gradient scalers switch themselves off without a GPU.
        patched.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patched.setenv("nnUNet_compile", "f")
        patched.setattr(nn.Module, "to", module_to)
        patched.setattr(torch.Tensor, "backward", lambda loss, *_, **__: simulation.backward(loss))
        patched.setattr(torch.amp.GradScaler, "scale", noted_scale)
        patched.setattr(torch.Tensor, "numpy", zeros_of)
        with simulation.mode, simulation.waits:
            yield simulation
