"""Confusion counts of every label and region from one joint histogram of two label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Voxels counted at a time: the 64-bit index array that numpy.bincount needs stays in the cache and off the peak memory.
_CHUNK = 1 << 18


@dataclass(frozen=True)
class ConfusionCounts:
    """Voxel counts of one class: true and false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_ref(self) -> int:
        """Voxels of the class in the reference."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Voxels of the class in the prediction."""
        return self.tp + self.fp


@dataclass(frozen=True)
class JointHistogram:
    """How often each pair of (reference label, prediction label) occurs.

    Attributes:
        counts: Integer array of shape (len(labels), len(labels)); rows reference, columns prediction.
        labels: The label values of rows and columns.
    """

    counts: npt.NDArray[np.int64]
    labels: tuple[int, ...]

    def confusion(self, members: Sequence[int], ignore: int | None = None) -> ConfusionCounts:
        """Counts of the class that is the union of ``members``.

        Args:
            members: Label values that form the class (one for a label, several for a region).
            ignore: Reference label whose voxels are left out of all counts, as in nnU-Net.
        """
        rows = [i for i, label in enumerate(self.labels) if label != ignore]
        table = self.counts[rows]
        row_in = np.isin(np.asarray(self.labels)[rows], members)
        column_in = np.isin(self.labels, members)
        return ConfusionCounts(
            tp=int(table[np.ix_(row_in, column_in)].sum()),
            fp=int(table[np.ix_(~row_in, column_in)].sum()),
            fn=int(table[np.ix_(row_in, ~column_in)].sum()),
            tn=int(table[np.ix_(~row_in, ~column_in)].sum()),
        )


def joint_histogram(
    reference: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer], labels: Sequence[int]
) -> JointHistogram:
    """Count every pair of labels in one pass.

    Args:
        reference: Label map of any shape; holds only values of ``labels``.
        prediction: Label map of the same shape; holds only values of ``labels``.
        labels: All label values that may occur, background included.

    Raises:
        ValueError: If the shapes differ or a value is not among ``labels``.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {prediction.shape}")
    values = tuple(sorted(set(labels)))
    if values[0] < 0:
        raise ValueError(f"labels must not be negative: {values[0]}")
    n = len(values)
    position = np.full(values[-1] + 1, -1, dtype=np.intp)
    position[list(values)] = np.arange(n)
    dense = values == tuple(range(n))
    total = np.zeros(n * n, dtype=np.int64)
    ref, pred = reference.reshape(-1), prediction.reshape(-1)
    for start in range(0, ref.size, _CHUNK):
        r, p = ref[start : start + _CHUNK], pred[start : start + _CHUNK]
        if r.min() < 0 or p.min() < 0 or r.max() > values[-1] or p.max() > values[-1]:
            raise ValueError("a label map holds a value that is not among the labels")
        if n == 2 and dense and r.dtype == p.dtype == np.uint8:
            # One class, the most common case: counting bits beats any histogram.
            first, second = r.view(bool), p.view(bool)
            both = np.count_nonzero(first & second)
            n_ref, n_pred = np.count_nonzero(first), np.count_nonzero(second)
            total += (r.size - n_ref - n_pred + both, n_pred - both, n_ref - both, both)
            continue
        if dense:
            # 16 bits where they suffice: this loop is bound by memory traffic.
            joint = r.astype(np.uint16 if n < 256 else np.intp)
            joint *= n
            joint += p.astype(joint.dtype, copy=False)
        else:
            row, column = position[r], position[p]
            if row.min() < 0 or column.min() < 0:
                raise ValueError("a label map holds a value that is not among the labels")
            joint = row * n + column
        total += np.bincount(joint, minlength=n * n)
    return JointHistogram(total.reshape(n, n), values)
