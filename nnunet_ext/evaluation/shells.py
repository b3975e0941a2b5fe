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
_AT_A_TIME = 1 << 16  # voxels: their state stays in the cache, and dense noise needs no more memory than an organ
_LOOK_S = 1.5e-9  # to try one offset of one voxel; only its ratio to the next matters
_SEARCH_S = 8e-7  # to find a voxel's partner by other means
# After so many offsets it is asked whether the looks so far have saved more than they cost.
_STOPS = (32, 256, _MOST_OFFSETS)


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
    jumps = offsets @ strides
    gain = 0.0
    for start in range(0, queries.size, _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        index = np.unravel_index(queries[part], other.shape)
        voxels = sum((i + r) * stride for i, r, stride in zip(index, reach, strides, strict=True))
        gain = _search(voxels, padded.reshape(-1), jumps, lengths, distances[part], gain)
    return distances


def _search(
    voxels: npt.NDArray[np.intp],
    looked: Mask,
    jumps: npt.NDArray[np.intp],
    lengths: npt.NDArray[np.float64],
    distances: npt.NDArray[np.float64],
    gain: float,
) -> float:
    """Write into ``distances`` those of ``voxels`` to the nearest set voxel of ``looked``, both in flat indices.

    Gives up where it would have been quicker to search by other means, all voxels so far taken together; ``gain`` is
    the time they have saved, and the new one is returned.
    """
    # offsets of one length belong together
    starts = np.flatnonzero(np.diff(lengths, prepend=-1.0) > 0)
    ends = [*starts[1:], len(lengths)]
    left = np.arange(voxels.size)
    stops = iter(_STOPS)
    stop = next(stops)
    for start, end in zip(starts, ends, strict=True):
        hit = looked[voxels + jumps[start]]
        for jump in jumps[start + 1 : end]:
            hit |= looked[voxels + jump]
        gain -= voxels.size * (end - start) * _LOOK_S
        if hit.any():
            distances[left[hit]] = lengths[start]
            np.logical_not(hit, out=hit)
            gain += _SEARCH_S * (left.size - np.count_nonzero(hit))
            left, voxels = left[hit], voxels[hit]
            if left.size == 0:
                break
        if end >= stop:
            if gain < 0:
                break
            stop = next(stops, _MOST_OFFSETS + 1)
    return gain
