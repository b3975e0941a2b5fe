"""Lists of distances, held as their distinct values and how often each occurs.

On a voxel grid few lengths are possible. Two dense masks have a border voxel in nearly every voxel, and their distances
one by one would take several times the memory of the label maps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Distances:
    """A list of distances without its order.

    Attributes:
        values: Float64 array of shape (n,), the distinct distances in mm, ascending.
        counts: Int64 array of shape (n,), how often each occurs, at least once.
    """

    values: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, distances: npt.ArrayLike) -> Distances:
        """Count the values of a list in mm."""
        values, counts = np.unique(np.asarray(distances, dtype=np.float64), return_counts=True)
        return cls(values, counts.astype(np.int64, copy=False))

    @classmethod
    def joined(cls, parts: Iterable[Distances]) -> Distances:
        """All distances of several lists in one."""
        lists = list(parts)
        values, place = np.unique(np.concatenate([part.values for part in lists]), return_inverse=True)
        counts = np.zeros(values.size, np.int64)
        np.add.at(counts, place, np.concatenate([part.counts for part in lists]))
        return cls(values, counts)

    @property
    def size(self) -> int:
        """Length of the list."""
        return int(self.counts.sum())

    def mean(self) -> float:
        """Mean in mm."""
        return float(self.values @ self.counts) / self.size

    def root_mean_square(self) -> float:
        """Root of the mean square in mm."""
        return float(np.sqrt(np.square(self.values) @ self.counts / self.size))

    def largest(self) -> float:
        """Maximum in mm."""
        return float(self.values[-1])

    def percentile(self, percent: float) -> float:
        """Percentile in mm, between two distances in proportion, as :func:`numpy.percentile` has it.

        Args:
            percent: From 0 to 100.
        """
        rank = (self.size - 1) * percent / 100
        below = int(rank)
        ends = np.cumsum(self.counts)
        low, high = self.values[np.searchsorted(ends, (below, min(below + 1, self.size - 1)), side="right")]
        return float(low + (high - low) * (rank - below))

    def share_within(self, limit: float) -> float:
        """Share of the list, from 0 to 1, that is at most ``limit`` mm."""
        return int(self.counts[: np.searchsorted(self.values, limit, side="right")].sum()) / self.size

    def expanded(self) -> npt.NDArray[np.float64]:
        """The list itself, ascending, of shape (size,)."""
        return np.repeat(self.values, self.counts)


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm from each border voxel of one object to the nearest border voxel of the other.

    Attributes:
        pred_to_ref: From the prediction to the reference.
        ref_to_pred: From the reference to the prediction.
    """

    pred_to_ref: Distances
    ref_to_pred: Distances
