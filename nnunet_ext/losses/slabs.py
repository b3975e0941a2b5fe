"""Losses over maps of many classes, slab by slab: what lies between logits and loss never exists as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

_CPU_VOXELS = 1 << 14  # what stays in the cache over all classes
_DEVICE_VOXELS = 1 << 17  # enough for a device to be busy, little beside the maps of a patch


def slabs(maps: torch.Tensor) -> Iterator[tuple[int, int]]:
    """Start and length, along the first spatial axis, of slabs that cover maps (B, C, *spatial)."""
    length = maps.shape[2]
    voxels = _CPU_VOXELS if maps.device.type == "cpu" else _DEVICE_VOXELS
    rows = max(1, voxels // math.prod(maps.shape[3:]))
    for start in range(0, length, rows):
        yield start, min(rows, length - start)
