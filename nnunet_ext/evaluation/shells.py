"""Nearest border voxels by trying the offsets around a voxel in the order of their length.

Surfaces of a segmentation and its reference are mostly a few voxels apart: most voxels find their partner within some
dozen offsets, each a single look into the mask, where a search tree visits hundreds of points.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.distances import Distances

Mask = npt.NDArray[np.bool_]

_MOST_OFFSETS = 600
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


class Shells:
    """Search for the voxels of a mask around other voxels; it counts the distances it has found.

    It gives up where it would have been quicker to search by other means, all voxels so far taken together.
    """

    def __init__(self, other: Mask, spacing: npt.NDArray[np.float64]) -> None:
        """Get ready to look into a mask.

        Args:
            other: The mask, of any dimension.
            spacing: Voxel size in mm in the order of the array axes.
        """
        offsets, lengths = _offsets(tuple(float(step) for step in spacing))
        self._shape = other.shape
        self._reach = np.abs(offsets).max(0, initial=0)
        # With a margin as wide as the longest offset no look falls out of the array.
        padded = np.zeros([n + 2 * r for n, r in zip(other.shape, self._reach, strict=True)], bool)
        padded[tuple(slice(r, r + n) for n, r in zip(other.shape, self._reach, strict=True))] = other
        self._looked = padded.reshape(-1)
        self._strides = np.cumprod([1, *padded.shape[:0:-1]])[::-1]
        self._jumps = offsets @ self._strides
        # Offsets of one length belong together.
        self._starts = np.flatnonzero(np.diff(lengths, prepend=-1.0) > 0)
        self._ends = [*self._starts[1:], len(lengths)]
        self._lengths = lengths[self._starts]
        self._counts = np.zeros(self._starts.size, np.int64)
        self._gain = 0.0

    def search(self, queries: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
        """Look around some voxels.

        Args:
            queries: Flat indices of voxels that are not set in the mask.

        Returns:
            Those of ``queries``, in their order, for which the search was given up.
        """
        index = np.unravel_index(queries, self._shape)
        voxels = np.zeros(queries.size, np.intp)
        for place, reach, stride in zip(index, self._reach, self._strides, strict=True):
            voxels += (place + reach) * stride
        del index
        stops = iter(_STOPS)
        stop = next(stops)
        for shell, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
            hit = self._looked[voxels + self._jumps[start]]
            for jump in self._jumps[start + 1 : end]:
                hit |= self._looked[voxels + jump]
            self._gain -= voxels.size * (end - start) * _LOOK_S
            found = np.count_nonzero(hit)
            if found:
                self._counts[shell] += found
                self._gain += _SEARCH_S * found
                np.logical_not(hit, out=hit)
                queries, voxels = queries[hit], voxels[hit]
                if queries.size == 0:
                    break
            if end >= stop:
                if self._gain < 0:
                    break
                stop = next(stops, _MOST_OFFSETS + 1)
        return queries

    def found(self) -> Distances:
        """Exact distances in mm of all voxels for which the search was not given up."""
        used = self._counts > 0
        return Distances(self._lengths[used], self._counts[used])
