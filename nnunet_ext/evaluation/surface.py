"""Surface distances of two masks: both directed lists, exact, in millimetres.

Exact methods that give the same numbers: looking at the closest voxels first settles most of two similar surfaces, and
dense noise; a k-d tree over the border voxels finds the rest, or the Euclidean distance transform where border voxels
are dense and far apart. :func:`border_distances` picks by their estimated cost. Nothing is held per border voxel, of
which dense noise has as many as the image has voxels: indices, points and distances are made in blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from nnunet_ext.core.masks import Mask, border, bounding_box, join_boxes
from nnunet_ext.evaluation.distances import Distances, SurfaceDistances
from nnunet_ext.evaluation.shells import Shells

Method = Literal["auto", "tree", "transform"]

# Seconds per unit of work, measured on one 2.5 GHz core; only their ratios matter.
_BUILD_S = 1.5e-7  # per point put into the tree
_QUERY_S = 8e-7  # per point asked for, at the least
_TRANSFORM_S = 8e-8  # per voxel and mask
_POINT_S = 1.1e-8  # per point of the tree that is at most _AROUND voxels farther than the nearest one
_AROUND = 3
_PROBE = 512  # points asked for before the tree's true cost is judged
_FEW = 4096  # points that the tree finds before the shells are set up
# Border voxels worked on at a time: at least, at most, and as a share of the voxels. Large blocks are quicker while
# they fit the cache; small images get small ones, for each voxel of a block takes some 64 bytes.
_BLOCK_LEAST, _BLOCK_MOST, _BLOCK_SHARE = 1 << 13, 1 << 16, 1 / 128
_SCAN_LEAST, _SCAN_MOST, _SCAN_SHARE = 1 << 16, 1 << 19, 1 / 32  # the same for looking through masks for them
# The transform needs 13 bytes a voxel beside the masks. Dense borders are done in overlapping slabs of at most this
# many voxels; for distant borders, where slabs are no use, the transform is considered up to the second size.
_SLAB_VOXELS = 1 << 20
_WHOLE_VOXELS = 1 << 24
_HALO = 4  # planes by which a slab reaches into its neighbours


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
    borders = [object_border(mask, neighbourhood, edge_is_surface, ignored) for mask in (reference, prediction)]
    return border_distances(borders[0], borders[1], spacing, method, workers)


def object_border(
    mask: Mask, neighbourhood: int = 6, edge_is_surface: bool = True, ignored: Mask | None = None
) -> Mask:
    """Border of an object, found around the object alone; that of one that fills the image is the edge of the image.

    Args:
        mask: Object, of shape (z, y, x) or (y, x).
        neighbourhood: See :func:`border`.
        edge_is_surface: See :func:`border`.
        ignored: See :func:`border`.

    Returns:
        Boolean array of the shape of ``mask``, empty only where ``mask`` is.
    """
    own = bounding_box(mask)
    if own is None:
        return np.zeros_like(mask)
    # One voxel around the object: where that leaves the image, and only there, the edge rule decides.
    around = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(own, mask.shape, strict=True))
    part = mask[around]
    found = border(part, neighbourhood, edge_is_surface, None if ignored is None else ignored[around])
    if not found.any():
        found = border(part, neighbourhood, edge_is_surface=True)
    if found.shape == mask.shape:
        return found
    placed = np.zeros(mask.shape, bool)  # unlike zeros_like, takes memory only where it is written to
    placed[around] = found
    return placed


def border_distances(
    reference: Mask, prediction: Mask, spacing: Sequence[float], method: Method = "auto", workers: int = 1
) -> SurfaceDistances:
    """Both directed lists of distances between the borders of two objects.

    Args:
        reference: Border of the reference, non-empty, see :func:`object_border`.
        prediction: Border of the prediction, of the same shape.
        spacing: See :func:`surface_distances`.
        method: See :func:`surface_distances`.
        workers: See :func:`surface_distances`.

    Raises:
        ValueError: If a border is empty.
    """
    boxes = bounding_box(reference), bounding_box(prediction)
    if boxes[0] is None or boxes[1] is None:
        raise ValueError("surface distances need two non-empty masks")
    box = join_boxes(boxes[0], boxes[1])
    counts = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))  # quick while nothing is cropped
    reference, prediction = reference[box], prediction[box]
    steps = np.asarray(spacing, float)
    ways = [
        _Way(reference, prediction, counts[0], steps, method),
        _Way(prediction, reference, counts[1], steps, method),
    ]
    chosen = method
    if method == "auto":
        tree_s = sum(_BUILD_S * way.n_border + _QUERY_S * way.left.size for way in ways)
        chosen = "tree" if tree_s <= 2 * _TRANSFORM_S * reference.size else "transform"
    for way in ways:
        way.finish(chosen == "transform", method == "auto", workers)
    return SurfaceDistances(pred_to_ref=ways[1].distances(), ref_to_pred=ways[0].distances())


class _Way:
    """Distances from one border to the other.

    Attributes:
        n_border: Border voxels on this side.
        left: Flat indices of those whose distance is not known yet, ascending.
    """

    def __init__(self, own: Mask, other: Mask, n_border: int, spacing: npt.NDArray[np.float64], method: Method) -> None:
        self._other, self._spacing, self.n_border = other, spacing, n_border
        self._found: list[Distances] = []
        shells: Shells | None = None
        left = [np.empty(0, np.intp)]
        n_asked = 0
        for block in _blocks(own, but_not=other):
            n_asked += block.size
            if shells is None and method == "auto" and block.size > _FEW:
                shells = Shells(other, spacing)
            left.append(block if shells is None else shells.search(block))
        self.left = np.concatenate(left)
        if shells is not None:
            self._found.append(shells.found())
        # Border voxels that the objects share are at distance 0 and need no search.
        if self.n_border > n_asked:
            self._found.append(Distances(np.zeros(1), np.array([self.n_border - n_asked])))

    def finish(self, by_transform: bool, may_change: bool, workers: int) -> None:
        """Find the distances that are left, by transform or tree; where it may, the tree gives way if it is slow."""
        if self.left.size and by_transform:
            self._found += _by_transform(self.left, self._other, self._spacing, _SLAB_VOXELS)
        elif self.left.size:
            self._found += _by_tree(self.left, self._other, self._spacing, may_change, workers)

    def distances(self) -> Distances:
        """The whole list, once it is finished."""
        return Distances.joined(self._found)


def _slabs(mask: Mask) -> Iterator[slice]:
    """Runs of planes to look through at a time."""
    n_voxels = min(_SCAN_MOST, max(_SCAN_LEAST, int(_SCAN_SHARE * mask.size)))
    thickness = max(1, n_voxels * len(mask) // mask.size)
    return (slice(start, start + thickness) for start in range(0, len(mask), thickness))


def _block_size(n_voxels: int) -> int:
    return min(_BLOCK_MOST, max(_BLOCK_LEAST, int(_BLOCK_SHARE * n_voxels)))


def _blocks(mask: Mask, but_not: Mask | None = None) -> Iterator[npt.NDArray[np.intp]]:
    """Flat indices of the voxels set in a mask, and not set in the other, ascending, block by block."""
    size = _block_size(mask.size)
    plane_voxels = mask.size // len(mask)
    waiting: list[npt.NDArray[np.intp]] = []
    n_waiting = 0
    for slab in _slabs(mask):
        wanted = mask[slab] if but_not is None else mask[slab] > but_not[slab]
        found = np.flatnonzero(wanted)
        found += slab.start * plane_voxels
        waiting.append(found)
        n_waiting += found.size
        if n_waiting >= size:
            found = np.concatenate(waiting)
            whole = n_waiting - n_waiting % size
            yield from np.split(found[:whole], whole // size)
            waiting, n_waiting = [found[whole:].copy()], n_waiting - whole
    if n_waiting:
        yield np.concatenate(waiting)


def _parts(flat: npt.NDArray[np.intp], n_voxels: int) -> Iterator[npt.NDArray[np.intp]]:
    size = _block_size(n_voxels)
    return (flat[start : start + size] for start in range(0, flat.size, size))


def _points(flat: npt.NDArray[np.intp], shape: tuple[int, ...], spacing: npt.NDArray[np.float64]) -> npt.NDArray:
    points = np.empty((flat.size, len(shape)))
    for axis, index in enumerate(np.unravel_index(flat, shape)):
        np.multiply(index, spacing[axis], out=points[:, axis])
    return points


def _tree(mask: Mask, spacing: npt.NDArray[np.float64]) -> cKDTree:
    """Tree of the voxels set in a mask."""
    points = np.concatenate([_points(block, mask.shape, spacing) for block in _blocks(mask)])
    # Border voxels lie on a grid: splitting at the middle is as good as at the median, and much faster to build.
    return cKDTree(points, leafsize=32, balanced_tree=False, compact_nodes=False)


def _tree_seconds(
    tree: cKDTree, sample: npt.NDArray[np.float64], nearest: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64]
) -> float:
    """Estimated time of a query: it looks at the points that are hardly farther than the nearest one.

    Counted, not timed: what else runs on the machine does not change the choice.
    """
    few = slice(None, None, 4)
    around = nearest[few] + _AROUND * float(np.prod(spacing)) ** (1 / len(spacing))
    return _QUERY_S + _POINT_S * float(np.mean(tree.query_ball_point(sample[few], around, return_length=True)))


def _by_tree(
    queries: npt.NDArray[np.intp], other: Mask, spacing: npt.NDArray[np.float64], may_change: bool, workers: int
) -> list[Distances]:
    tree = _tree(other, spacing)
    bound = np.inf
    if may_change and queries.size > 8 * _PROBE:
        # A sample tells how far to look, and what the rest will cost: far from the surface a query visits many points.
        sample = _points(queries[np.linspace(0, queries.size - 1, _PROBE).astype(np.intp)], other.shape, spacing)
        nearest = np.asarray(tree.query(sample)[0])
        bound = float(nearest.max())
        if _tree_seconds(tree, sample, nearest, spacing) * queries.size > 1.2 * _TRANSFORM_S * other.size and (
            other.size <= _WHOLE_VOXELS
        ):
            del tree
            return _by_transform(queries, other, spacing, _WHOLE_VOXELS)
    found = []
    for block in _parts(queries, other.size):
        points = _points(block, other.shape, spacing)
        # Looking no further than the sample needed to saves a fifth; the few points beyond are asked for again.
        distances = np.asarray(tree.query(points, distance_upper_bound=1.25 * bound, workers=workers)[0])
        beyond = np.isinf(distances)
        if beyond.any():
            distances[beyond] = tree.query(points[beyond], workers=workers)[0]
        found.append(Distances.of(distances))
    return found


def _by_transform(
    queries: npt.NDArray[np.intp], other: Mask, spacing: npt.NDArray[np.float64], slab_voxels: int
) -> list[Distances]:
    """Distances by Euclidean distance transforms of slabs; what a slab cannot settle is left to the tree."""
    n_planes = other.shape[0]
    plane_voxels = other.size // n_planes
    thickness = n_planes if other.size <= slab_voxels else max(slab_voxels // plane_voxels - 2 * _HALO, 4 * _HALO)
    found: list[Distances] = []
    left = []
    for start in range(0, n_planes, thickness):
        low, high = max(start - _HALO, 0), min(start + thickness + _HALO, n_planes)
        slab = other[low:high]
        bounds = np.searchsorted(queries, (start * plane_voxels, (start + thickness) * plane_voxels))
        here = queries[bounds[0] : bounds[1]]  # flat indices are sorted
        if here.size == 0 or not slab.any():
            left.append(here)
            continue
        nearest = distance_transform_edt(~slab, sampling=spacing, return_distances=False, return_indices=True)
        for block in _parts(here, other.size):
            inside = block - low * plane_voxels
            index = np.unravel_index(inside, slab.shape)
            square = np.zeros(block.size)
            for axis in range(slab.ndim):
                square += ((nearest[axis].reshape(-1)[inside] - index[axis]) * spacing[axis]) ** 2
            distances = np.sqrt(square)
            # A closer voxel may lie beyond the slab unless the distance is within the halo.
            below = (index[0] + 1) * spacing[0] if low > 0 else np.inf
            above = (high - low - index[0]) * spacing[0] if high < n_planes else np.inf
            settled = distances <= np.minimum(below, above)
            found.append(Distances.of(distances[settled]))
            left.append(block[~settled])
    rest = np.concatenate(left)
    if rest.size:
        found += _by_tree(rest, other, spacing, may_change=False, workers=1)
    return found
