"""Slow float64 definitions, written from the formulas alone, that the fast code is held against."""

from itertools import product

import numpy as np
from scipy.spatial.distance import cdist


def offsets(neighbourhood: int, ndim: int) -> list[tuple[int, ...]]:
    """Neighbours that differ by one step in at most 1, 2 or 3 coordinates."""
    most = min({6: 1, 18: 2, 26: 3}[neighbourhood], ndim)
    return [o for o in product((-1, 0, 1), repeat=ndim) if 0 < sum(map(abs, o)) <= most]


def border_points(mask, neighbourhood=6, edge_is_surface=True, ignored=None):
    """Indices of object voxels with a neighbour that is outside the object."""
    points = []
    for index in np.argwhere(mask):
        for offset in offsets(neighbourhood, mask.ndim):
            neighbour = tuple(index + offset)
            beyond = any(i < 0 or i >= n for i, n in zip(neighbour, mask.shape, strict=True))
            if beyond:
                outside = edge_is_surface
            else:
                outside = not mask[neighbour] and not (ignored is not None and ignored[neighbour])
            if outside:
                points.append(index)
                break
    return np.array(points).reshape(-1, mask.ndim)


def directed(ref, pred, spacing, **options):
    """Sorted distances prediction to reference, and reference to prediction."""
    a = border_points(ref, **options) * np.asarray(spacing, float)
    b = border_points(pred, **options) * np.asarray(spacing, float)
    d = cdist(b, a)
    return np.sort(d.min(axis=1)), np.sort(d.min(axis=0))


def random_masks(rng, shape, kind):
    """A pair of masks of a kind that has gone wrong somewhere before."""
    ref, pred = np.zeros(shape, bool), np.zeros(shape, bool)
    if kind == "noise":
        return rng.random(shape) < 0.3, rng.random(shape) < 0.3
    if kind == "blobs":
        grid = np.indices(shape)
        for mask in (ref, pred):
            for _ in range(4):
                centre = [rng.uniform(0, n) for n in shape]
                np.logical_or(mask, np.square(grid.T - centre).T.sum(0) < rng.uniform(2, 20), out=mask)
            mask[tuple(n // 2 for n in shape)] = True
    elif kind == "edges":
        ref[(slice(0, 3),) * len(shape)] = True
        pred[(slice(0, 2),) + (slice(None),) * (len(shape) - 1)] = True
    elif kind == "one_voxel":
        ref[tuple(int(rng.integers(n)) for n in shape)] = True
        pred[tuple(int(rng.integers(n)) for n in shape)] = True
    elif kind == "far":
        ref[(slice(0, 2),) * len(shape)] = True
        pred[(slice(-2, None),) * len(shape)] = True
    elif kind == "full":
        ref[...] = True
        pred[(slice(1, -1),) * len(shape)] = True
    return ref, pred


KINDS = ("noise", "blobs", "edges", "one_voxel", "far", "full")
SHAPES = (((9, 8, 10), (1.0, 1.0, 1.0)), ((7, 11, 9), (5.0, 0.8, 0.7)), ((16, 13), (1.0, 1.0)), ((12, 17), (2.5, 0.4)))
