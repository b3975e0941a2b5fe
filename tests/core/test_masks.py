"""Boxes and borders of masks against plain loops."""

import itertools

import numpy as np
import pytest

from nnunet_ext.core.masks import border, bounding_box, join_boxes


def neighbours(ndim, neighbourhood):
    reach = {6: 1, 18: 2, 26: 3}[neighbourhood] if ndim == 3 else (1 if neighbourhood == 6 else 2)
    return [o for o in itertools.product((-1, 0, 1), repeat=ndim) if 0 < sum(map(abs, o)) <= reach]


def plain_border(mask, neighbourhood, edge_is_surface, ignored):
    found = np.zeros_like(mask)
    for voxel in np.argwhere(mask):
        for offset in neighbours(mask.ndim, neighbourhood):
            place = tuple(voxel + offset)
            inside = all(0 <= i < n for i, n in zip(place, mask.shape, strict=True))
            outside = not mask[place] and not ignored[place] if inside else edge_is_surface
            found[tuple(voxel)] |= outside
    return found


@pytest.mark.parametrize("edge_is_surface", [True, False])
@pytest.mark.parametrize("neighbourhood", [6, 18, 26])
@pytest.mark.parametrize("shape", [(17, 18), (9, 10, 11)])
def test_border_voxels_have_a_neighbour_outside(shape, neighbourhood, edge_is_surface):
    rng = np.random.default_rng(neighbourhood)
    mask = rng.random(shape) < 0.95
    ignored = ~mask & (rng.random(shape) < 0.5)
    expected = plain_border(mask, neighbourhood, edge_is_surface, ignored)
    assert 0 < expected.sum() < mask.sum()
    np.testing.assert_array_equal(border(mask, neighbourhood, edge_is_surface, ignored), expected)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(9,), (6, 9), (5, 6, 9)])
def test_bounding_box_is_the_smallest(shape, dtype):
    rng = np.random.default_rng(1)
    for _ in range(20):
        mask = np.zeros(shape, dtype)
        for _ in range(2):
            mask[tuple(rng.integers(n) for n in shape)] = 1
        expected = tuple(slice(places.min(), places.max() + 1) for places in np.nonzero(mask))
        assert bounding_box(mask) == expected
    assert bounding_box(np.zeros(shape, dtype)) is None


def test_joined_boxes_hold_both():
    assert join_boxes((slice(2, 5), slice(0, 1)), (slice(4, 9), slice(3, 4))) == (slice(2, 9), slice(0, 4))
