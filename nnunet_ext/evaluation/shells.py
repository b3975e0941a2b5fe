"""Nearest border voxels by trying the offsets around a voxel in the order of their length.

Surfaces of a segmentation and its reference are mostly a few voxels apart: most voxels find their partner within some
dozen offsets, each a single look into the mask, where a search tree visits hundreds of points.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_MOST_OFFSETS = 600
_LOOK_S = 3e-9  # to try one offset of one voxel; only its ratio to the next matters
_SEARCH_S = 8e-7  # to find a voxel's partner by other means
# After so many offsets it is asked whether the last of them were worth their while.
_STOPS = (32, 96, 224, _MOST_OFFSETS)


@lru_cache(maxsize=16)
def _offsets(spacing: tuple[float, ...]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """All offsets within a ball, shortest first, and their lengths in mm; without the zero offset."""
    dimensions = len(spacing)
    unit_ball = math.pi ** (dimensions / 2) / math.gamma(dimensions / 2 + 1)
    radius = (_MOST_OFFSETS * math.prod(spacing) / unit_ball) ** (1 / dimensions)
    reach = [int(radius / step) for step in spacing]
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, dimensions)
    lengths = np.sqrt(((grid * np.asarray(spacing)) ** 2).sum(1))
    order = np.argsort(lengths, kind="stable")
    order = order[(lengths[order] <= radius) & (lengths[order] > 0)]
    return grid[order], lengths[order]


def nearest_by_shells(
    queries: npt.NDArray[np.intp], other: Mask, spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Distances to the nearest set voxel, of those voxels that have one close by.

    Args:
        queries: flat indices of voxels that are not set themselves.
        other: the mask, of any dimension.
        spacing: voxel size in mm in the order of the array axes.

    Returns:
        Exact distances in mm, in the order of ``queries``; infinite where the search was given up.
    """
    offsets, lengths = _offsets(tuple(float(step) for step in spacing))
    distances = np.full(queries.size, np.inf)
    if len(offsets) == 0:
        return distances
    reach = np.abs(offsets).max(0)
    padded = np.zeros([n + 2 * r for n, r in zip(other.shape, reach, strict=True)], bool)
    padded[tuple(slice(r, r + n) for n, r in zip(other.shape, reach, strict=True))] = other
    strides = np.cumprod([1, *padded.shape[:0:-1]])[::-1]
    voxels = np.zeros(queries.size, np.intp)
    for index, r, stride in zip(np.unravel_index(queries, other.shape), reach, strides, strict=True):
        voxels += (index + r) * stride
    looked = padded.reshape(-1)
    jumps = offsets @ strides
    # offsets of one length belong together
    starts = np.flatnonzero(np.diff(lengths, prepend=-1.0) > 0)
    ends = [*starts[1:], len(lengths)]

    left = np.arange(queries.size)
    stops = iter(_STOPS)
    stop, cost, found = next(stops), 0.0, 0
    for start, end in zip(starts, ends, strict=True):
        hit = looked[voxels + jumps[start]]
        for jump in jumps[start + 1 : end]:
            hit |= looked[voxels + jump]
        cost += voxels.size * (end - start) * _LOOK_S
        if hit.any():
            distances[left[hit]] = lengths[start]
            np.logical_not(hit, out=hit)
            found += left.size
            left, voxels = left[hit], voxels[hit]
            found -= left.size
            if left.size == 0:
                break
        if end >= stop:
            if found * _SEARCH_S < cost:
                break
            stop, cost, found = next(stops, _MOST_OFFSETS + 1), 0.0, 0
    return distances
