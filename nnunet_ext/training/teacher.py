"""A teacher of the network that trains, to ask for pseudo-labels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel


class Teacher:
    """The network as it was at the last :meth:`refresh`, without gradients.

    Args:
        network: what is copied; may be wrapped by ``torch.compile`` and ``DistributedDataParallel``.
        compile_module: run the copy through ``torch.compile``.
    """

    def __init__(self, network: nn.Module, compile_module: bool = False) -> None:
        self.module = copy.deepcopy(bare(network)).eval().requires_grad_(False)
        self._forward: Callable[[torch.Tensor], Any] = (
            torch.compile(self.module, dynamic=False) if compile_module else self.module
        )

    @torch.no_grad()
    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        """Finest output (B, C, *spatial) for images (B, channels, *spatial)."""
        outputs = self._forward(data)
        return outputs[0] if isinstance(outputs, (list, tuple)) else outputs

    def refresh(self, network: nn.Module) -> None:
        """Take over the present weights of ``network``."""
        self.module.load_state_dict(bare(network).state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.module.load_state_dict(state)


def bare(network: nn.Module) -> nn.Module:
    """The network itself, without what ``torch.compile`` and ``DistributedDataParallel`` wrap around it."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    return network._orig_mod if isinstance(network, OptimizedModule) else network
