"""Boxes around masks and their border voxels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]


def bounding_box(mask: npt.NDArray[np.generic]) -> Box | None:
    """Smallest box around the non-zero voxels, or None where there are none.

    Args:
        mask: Boolean or unsigned integer array of any dimension.
    """
    # A maximum runs on vector instructions for every integer type, "any" does not. The first pass projects along the
    # slowest axis and finds all other extents, the second reads only what lies within them.
    view = mask.view(np.uint8) if mask.dtype == bool else mask
    shadow = view.max(axis=0)
    box: list[slice] = []
    for axis in range(shadow.ndim):
        found = np.flatnonzero(shadow.max(axis=tuple(a for a in range(shadow.ndim) if a != axis)))
        if found.size == 0:
            return None
        box.append(slice(int(found[0]), int(found[-1]) + 1))
    rest = tuple(box)
    within = (slice(None), *rest)
    found = np.flatnonzero(view[within].max(axis=tuple(range(1, mask.ndim))))
    return (slice(int(found[0]), int(found[-1]) + 1), *rest) if found.size else None


def join_boxes(first: Box, second: Box) -> Box:
    """Smallest box around two boxes."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def border(mask: Mask, neighbourhood: int = 6, edge_is_surface: bool = True, ignored: Mask | None = None) -> Mask:
    """Voxels of an object that have a neighbour outside it.

    Args:
        mask: Object, of shape (z, y, x) or (y, x).
        neighbourhood: 6, 18 or 26 (4, 8, 8 in 2D).
        edge_is_surface: Whether the outside of the image counts as outside of the object.
        ignored: Voxels, of the shape of ``mask``, of which it is not known whether they belong to the object; a border
            voxel needs a neighbour that is known to be outside.

    Returns:
        Boolean array of the shape of ``mask``.
    """
    solid = mask if ignored is None else mask | ignored
    outside = not edge_is_surface
    ndim = mask.ndim
    if neighbourhood == 6:
        interior = solid.copy()
        for axis in range(ndim):
            _erode_line(solid, axis, outside, interior)
    elif neighbourhood == 18 and ndim == 3:
        # The 18-neighbourhood is the union of the three 3x3 planes; eroding by a union is the intersection of erosions.
        interior = np.ones_like(solid)
        for first, second in ((0, 1), (0, 2), (1, 2)):
            interior &= _erode_box(solid, (first, second), outside)
    else:
        interior = _erode_box(solid, tuple(range(ndim)), outside)
    np.logical_not(interior, out=interior)
    interior &= mask
    return interior


def _erode_line(mask: Mask, axis: int, outside: bool, out: Mask) -> None:
    """Clear in ``out`` the voxels whose two neighbours in ``mask`` along ``axis`` are not both set."""
    source, target = np.moveaxis(mask, axis, 0), np.moveaxis(out, axis, 0)
    target[1:] &= source[:-1]
    target[:-1] &= source[1:]
    if not outside:
        target[0] = False
        target[-1] = False


def _erode_box(mask: Mask, axes: Sequence[int], outside: bool) -> Mask:
    for axis in axes:
        eroded = mask.copy()
        _erode_line(mask, axis, outside, eroded)
        mask = eroded
    return mask
