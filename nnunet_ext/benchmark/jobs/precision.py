"""bfloat16 on a processor: what nnU-Net's mixed precision is on a GPU, for trainings on machines without one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch


def use_bfloat16(trainer: Any) -> None:
    """Let the segmentation networks of an initialised trainer compute in bfloat16, and give float32 to its losses.

    On a GPU nothing is changed: nnU-Net's autocast does the same there. Discriminators stay in float32.

    Args:
        trainer: of any kind, with its networks built.
    """
    if trainer.device.type != "cpu":
        return
    for network in segmentation_networks(trainer):
        # Asked of the network: those of slices are 2D on 3D patches too.
        if any(
            isinstance(module, torch.nn.Conv3d) for module in network.modules()
        ):  # a step takes 1.3 times as long in the usual layout
            network.to(memory_format=torch.channels_last_3d)
        _compute_in_bfloat16(network)
        for module in network.modules():
            if type(module) is torch.nn.Conv3d:
                module.__class__ = _Conv3d


def segmentation_networks(trainer: Any) -> Iterator[torch.nn.Module]:
    """The networks that segment, each of two apart, those of a teacher too, and no discriminator."""
    from nnunet_ext.networks.coarse_to_fine import SliceNetwork

    modules = [trainer.network, *(one.module for one in getattr(trainer, "auxiliary", {}).values())]
    for module in modules:
        for part in (module.first, module.second) if hasattr(module, "first") else (module,):
            if hasattr(part, "decoder") or isinstance(part, SliceNetwork):
                yield part


class _Conv3d(torch.nn.Conv3d):
    """Stays in float32 where two planes meet a kernel of three.

    In bfloat16 the gradient of its weights is then whatever was in memory (seen with torch 2.14 on an AMD EPYC).
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.shape[2] != 2 or self.kernel_size[0] == 1:
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.float())


def _compute_in_bfloat16(network: torch.nn.Module) -> None:
    """By a subclass of its own, not a wrapper: names of weights stay, and copies of the network do the same."""
    plain = type(network)

    def forward(self: Any, *arguments: Any, **keywords: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = plain.forward(self, *arguments, **keywords)
        return _as_float32(outputs)

    network.__class__ = type(plain.__name__, (plain,), {"forward": forward})


def _as_float32(outputs: Any) -> Any:
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    if isinstance(outputs, Mapping):
        return {name: _as_float32(value) for name, value in outputs.items()}
    if type(outputs) in (list, tuple):
        return type(outputs)(_as_float32(value) for value in outputs)
    return outputs
