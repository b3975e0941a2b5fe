"""Checks of one case that a network would otherwise learn from: label values, shapes, orientation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dataset_conversion.volumes import Geometry
from nnunet_ext.errors import UserError

#: A label stored as float may miss its integer by this much through resampling or scaling tools.
LABEL_ROUNDING = 1e-3


def check_same_size(image: Geometry, label: Geometry, image_name: Path | str, label_name: Path | str) -> None:
    """Raise :class:`UserError` where two grids differ in their number of voxels."""
    if image.size != label.size:
        raise UserError(
            f"{label_name} has {_by(label.size)} voxels (x, y, z) and its image {image_name} has {_by(image.size)}."
        )


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def integer_labels(array: np.ndarray, path: Path) -> tuple[np.ndarray, bool]:
    """Give a label array as integers.

    Returns:
        The array as an integer type, and whether values had to be rounded.

    Raises:
        UserError: a value is further than :data:`LABEL_ROUNDING` from an integer, negative, or not finite.
    """
    if array.dtype.kind in "bu":
        return array.view(np.uint8) if array.dtype.kind == "b" else array, False
    if array.size and not (array.min() >= 0 and array.max() < 2**16):  # also catches NaN
        raise UserError(f"{path} is no label map: its values go from {array.min()} to {array.max()}.")
    if array.dtype.kind == "i":
        return array, False
    rounded = np.rint(array).astype(np.uint16)
    deviation = np.abs(array - rounded).max(initial=0)
    if deviation > LABEL_ROUNDING:
        raise UserError(f"{path} is no label map: it holds values that are no integers (off by up to {deviation:.3g}).")
    return rounded, bool(deviation > 0)


def values_in(array: np.ndarray) -> list[int]:
    """Distinct values of an array of non-negative integers below 2**16, ascending; several times faster than unique."""
    seen = np.zeros(2**16, bool)
    seen[array.ravel()] = True
    return np.flatnonzero(seen).tolist()


def check_label_values(array: np.ndarray, labels: Mapping[str, int], path: Path) -> None:
    """Raise :class:`UserError` where a label map holds a value that ``labels`` does not name."""
    unknown = sorted(set(values_in(array)) - set(labels.values()))
    if unknown:
        known = ", ".join(f"{value} {name}" for name, value in sorted(labels.items(), key=lambda item: item[1]))
        raise UserError(f"{path} holds label value {', '.join(map(str, unknown))}; this dataset knows {known}.")
