"""Boxes resized to a fixed size, the alternative to crops that keep their pixels, which were better.

export nnUNet_extTrainer=experiments/open_data/trainers
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from nnunet_ext.networks.multi_level import Maps
from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerCoarseToFine

SIZE = 96  # of 128 pixels of a slice of CHAOS


class Resized(nn.Module):
    """A fine network that sees every box at one size; its maps are those of the box as it was."""

    def __init__(self, fine: Any) -> None:
        super().__init__()
        self.fine = fine
        self.backbone = fine.backbone

    def forward(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> Maps:
        """Maps (N, C, H, W) of units (N, channels, H, W)."""
        size = x.shape[2:]
        maps = self.fine(interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False), *arguments, **keywords)
        return {name: interpolate(value, size, mode="bilinear", align_corners=False) for name, value in maps.items()}


class nnUNetTrainerCoarseToFineResized(nnUNetTrainerCoarseToFine):
    """``nnUNetTrainerCoarseToFine`` on resized boxes."""

    @classmethod
    def build_fine_network(cls, colours: Sequence[int], heads: int, options: Any) -> nn.Module:
        """The fine network between two resamplings."""
        return Resized(super().build_fine_network(colours, heads, options))
