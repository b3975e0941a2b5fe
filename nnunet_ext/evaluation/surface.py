"""Surface distances of two masks: both directed lists in one pass, exact, in millimetres.

Exact methods that give the same numbers: looking at the closest voxels first settles most of two similar surfaces, and
dense noise; a k-d tree over the border voxels finds the rest, or the Euclidean distance transform where border voxels
are dense and far apart. :func:`surface_distances` picks by their estimated cost.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from nnunet_ext.evaluation.shells import nearest_by_shells

Mask = npt.NDArray[np.bool_]
Box = tuple[slice, ...]
Method = Literal["auto", "tree", "transform"]

# Seconds per unit of work, measured on one 2.5 GHz core; only their ratios matter.
_BUILD_S = 1.5e-7  # per point put into the tree
_QUERY_S = 8e-7  # per point asked for, at the least
_TRANSFORM_S = 8e-8  # per voxel and mask
_PROBE = 512  # points asked for before the tree's true cost is judged
_FEW = 4096  # points that the tree finds before the shells are set up
# The transform needs 13 bytes a voxel beside the masks. Dense borders are done in overlapping slabs of at most this
# many voxels; for distant borders, where slabs are no use, the transform is considered up to the second size.
_SLAB_VOXELS = 1 << 20
_WHOLE_VOXELS = 1 << 24
_HALO = 4  # planes by which a slab reaches into its neighbours


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances in mm from each border voxel of one object to the nearest border voxel of the other.

    Attributes:
        pred_to_ref: Float64 array of shape (number of border voxels of the prediction,).
        ref_to_pred: Float64 array of shape (number of border voxels of the reference,).
    """

    pred_to_ref: npt.NDArray[np.float64]
    ref_to_pred: npt.NDArray[np.float64]


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


def surface_distances(
    reference: Mask,
    prediction: Mask,
    spacing: Sequence[float],
    neighbourhood: int = 6,
    edge_is_surface: bool = True,
    ignored: Mask | None = None,
    method: Method = "auto",
    workers: int = 1,
) -> SurfaceDistances:
    """Both directed lists of surface distances.

    Args:
        reference: Non-empty object, of shape (z, y, x) or (y, x).
        prediction: Non-empty object of the same shape.
        spacing: Voxel size in mm in the order of the array axes.
        neighbourhood: Border neighbourhood, see :func:`border`.
        edge_is_surface: See :func:`border`. An object that fills the image has the edge as its surface all the same.
        ignored: Voxels that belong to neither object, see :func:`border`.
        method: ``auto``, or one of the two methods for comparison.
        workers: Threads of the k-d tree.

    Raises:
        ValueError: If a mask is empty or shapes and spacing do not fit together.
    """
    if reference.shape != prediction.shape or len(spacing) != reference.ndim:
        raise ValueError(f"shapes {reference.shape}, {prediction.shape} and spacing {tuple(spacing)} do not fit")
    box_ref, box_pred = bounding_box(reference), bounding_box(prediction)
    if box_ref is None or box_pred is None:
        raise ValueError("surface distances need two non-empty masks")
    box = join_boxes(box_ref, box_pred)
    borders = [
        _cropped_border(mask, own, box, neighbourhood, edge_is_surface, ignored)
        for mask, own in ((reference, box_ref), (prediction, box_pred))
    ]
    ref_to_pred, pred_to_ref = _directed_lists(borders[0], borders[1], np.asarray(spacing, float), method, workers)
    return SurfaceDistances(pred_to_ref=pred_to_ref, ref_to_pred=ref_to_pred)


def _cropped_border(
    mask: Mask, own: Box, box: Box, neighbourhood: int, edge_is_surface: bool, ignored: Mask | None
) -> Mask:
    """Border of ``mask``, found around its ``own`` box and placed in an array of the size of ``box``."""
    # One voxel around the object: where that leaves the image, and only there, the edge rule decides.
    around = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(own, mask.shape, strict=True))
    part = mask[around]
    unknown = None if ignored is None else ignored[around]
    found = border(part, neighbourhood, edge_is_surface, unknown)
    if not found.any():
        found = border(part, neighbourhood, edge_is_surface=True)
    inside = tuple(slice(s.start - a.start, s.stop - a.start) for s, a in zip(own, around, strict=True))
    if own == box:
        return found[inside]
    placed = np.zeros([s.stop - s.start for s in box], dtype=bool)
    placed[tuple(slice(s.start - b.start, s.stop - b.start) for s, b in zip(own, box, strict=True))] = found[inside]
    return placed


def _directed_lists(
    first: Mask, second: Mask, spacing: npt.NDArray[np.float64], method: Method, workers: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Distances first to second and second to first, for two border masks in one box."""
    flat_first, flat_second = np.flatnonzero(first), np.flatnonzero(second)
    found = []
    for flat, other in ((flat_first, second), (flat_second, first)):
        distances = np.zeros(flat.size)
        # Border voxels that the objects share are at distance 0 and need no search.
        ask = np.flatnonzero(~other.reshape(-1)[flat])
        distances[ask] = np.inf
        if method == "auto" and ask.size > _FEW:
            distances[ask] = nearest_by_shells(flat[ask], other, spacing)
        found.append(distances)

    chosen = method
    if method == "auto":
        asked = sum(int(np.isinf(distances).sum()) for distances in found)
        tree_s = _BUILD_S * (flat_first.size + flat_second.size) + _QUERY_S * asked
        chosen = "tree" if tree_s <= 2 * _TRANSFORM_S * first.size else "transform"
    for flat, distances, other_flat, other in (
        (flat_first, found[0], flat_second, second),
        (flat_second, found[1], flat_first, first),
    ):
        ask = np.flatnonzero(np.isinf(distances))
        if ask.size and chosen == "transform":
            distances[ask] = _by_transform(flat[ask], other, spacing, _SLAB_VOXELS)
        elif ask.size:
            distances[ask] = _by_tree(flat[ask], other_flat, other, spacing, method == "auto", workers)
    return found[0], found[1]


def _points(flat: npt.NDArray[np.intp], shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> npt.NDArray:
    points = np.empty((flat.size, len(shape)))
    for axis, index in enumerate(np.unravel_index(flat, shape)):
        np.multiply(index, spacing[axis], out=points[:, axis])
    return points


def _tree(flat: npt.NDArray[np.intp], shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> cKDTree:
    # Border voxels lie on a grid: splitting at the middle is as good as at the median, and much faster to build.
    return cKDTree(_points(flat, shape, spacing), leafsize=32, balanced_tree=False, compact_nodes=False)


def _by_tree(
    queries: npt.NDArray[np.intp],
    other_flat: npt.NDArray[np.intp],
    other: Mask,
    spacing: npt.NDArray[np.float64],
    may_change: bool,
    workers: int,
) -> npt.NDArray[np.float64]:
    tree = _tree(other_flat, other.shape, spacing)
    points = _points(queries, other.shape, spacing)
    bound = np.inf
    if may_change and queries.size > 8 * _PROBE:
        # Far from the surface a query visits many nodes. A sample tells what the rest will cost, and how far to look.
        sample = points[np.linspace(0, queries.size - 1, _PROBE).astype(np.intp)]
        seconds = []
        for part in np.array_split(sample, 4):
            # Time of this thread, and the quickest part: other load on the machine must not change the choice.
            start = time.thread_time()
            found = np.asarray(tree.query(part)[0])
            seconds.append((time.thread_time() - start) / len(part))
            bound = max(float(found.max()), 0.0 if np.isinf(bound) else bound)
        if min(seconds) * queries.size > 1.2 * _TRANSFORM_S * other.size and other.size <= _WHOLE_VOXELS:
            return _by_transform(queries, other, spacing, _WHOLE_VOXELS)
    # Looking no further than the sample needed to saves a fifth; the few points beyond are asked for again.
    distances, _ = tree.query(points, distance_upper_bound=1.25 * bound, workers=workers)
    distances = np.asarray(distances)
    beyond = np.isinf(distances)
    if beyond.any():
        distances[beyond] = tree.query(points[beyond], workers=workers)[0]
    return distances


def _by_transform(
    queries: npt.NDArray[np.intp], other: Mask, spacing: npt.NDArray[np.float64], slab_voxels: int
) -> npt.NDArray[np.float64]:
    """Distances by Euclidean distance transforms of slabs; what a slab cannot settle is left to the tree."""
    n_planes = other.shape[0]
    plane_voxels = other.size // n_planes
    thickness = n_planes if other.size <= slab_voxels else max(slab_voxels // plane_voxels - 2 * _HALO, 4 * _HALO)
    plane = queries // plane_voxels
    distances = np.full(queries.size, np.inf)
    for start in range(0, n_planes, thickness):
        low, high = max(start - _HALO, 0), min(start + thickness + _HALO, n_planes)
        slab = other[low:high]
        here = slice(*np.searchsorted(plane, (start, start + thickness)))  # flat indices are sorted
        if here.start == here.stop or not slab.any():
            continue
        nearest = distance_transform_edt(~slab, sampling=spacing, return_distances=False, return_indices=True)
        found = queries[here] - low * plane_voxels
        square = np.zeros(found.size)
        for axis, index in enumerate(np.unravel_index(found, slab.shape)):
            square += ((nearest[axis].reshape(-1)[found] - index) * spacing[axis]) ** 2
        settled = np.sqrt(square)
        # A closer voxel may lie beyond the slab unless the distance is within the halo.
        below = (plane[here] - low + 1) * spacing[0] if low > 0 else np.inf
        above = (high - plane[here]) * spacing[0] if high < n_planes else np.inf
        settled[settled > np.minimum(below, above)] = np.inf
        distances[here] = settled
    left = np.isinf(distances)
    if left.any():
        distances[left] = _by_tree(queries[left], np.flatnonzero(other), other, spacing, may_change=False, workers=1)
    return distances
