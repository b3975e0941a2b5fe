"""Signed distance maps against Eq. 7 in loops."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from nnunet_ext.data.distance_maps import (
    AddDistanceMaps,
    relative_distance,
    signed_distance,
    signed_distance_maps,
)

SETTINGS = {"2D": ((9, 12), (0.7, 2.0)), "3D": ((6, 7, 8), (5.0, 0.8, 1.3))}


def border_voxels(inside, unknown=None):
    """Voxels of the object with a face neighbour, in the array, known not to belong to it."""
    border = []
    for voxel in map(tuple, np.argwhere(inside)):
        for axis, step in itertools.product(range(inside.ndim), (-1, 1)):
            near = list(voxel)
            near[axis] += step
            exists = 0 <= near[axis] < inside.shape[axis]
            if exists and not inside[tuple(near)] and not (unknown is not None and unknown[tuple(near)]):
                border.append(voxel)
                break
    return np.array(border)


def reference(inside, spacing, unknown=None):
    """Eq. 7 voxel by voxel."""
    border = border_voxels(inside, unknown)
    distance = np.zeros(inside.shape)
    if len(border) == 0:
        return distance
    for voxel in np.ndindex(inside.shape):
        nearest = np.sqrt((((border - voxel) * np.array(spacing)) ** 2).sum(1)).min()
        distance[voxel] = -nearest if inside[voxel] else nearest
    return distance


def blobs(shape, seed, labels=3):
    """A random label map with connected objects."""
    rng = np.random.default_rng(seed)
    grid = np.indices(shape)
    segmentation = np.zeros(shape, np.int16)
    for label in range(1, labels + 1):
        centre = np.array([rng.integers(n) for n in shape]).reshape(-1, *[1] * len(shape))
        segmentation[((grid - centre) ** 2).sum(0) < rng.uniform(2, 12)] = label
    return segmentation


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(4))
def test_the_distance_is_equation_7(setting, seed):
    shape, spacing = SETTINGS[setting]
    rng = np.random.default_rng(seed)
    noise = rng.random(shape) < 0.3
    for inside in (blobs(shape, seed) > 0, noise, ~noise):
        assert np.allclose(signed_distance(inside, spacing), reference(inside, spacing), atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_next_to_ignored_voxels_there_is_no_border(setting):
    shape, spacing = SETTINGS[setting]
    segmentation = blobs(shape, 1)
    unknown = np.random.default_rng(2).random(shape) < 0.2
    inside = (segmentation == 1) & ~unknown
    expected = reference(inside, spacing, unknown)
    assert not np.allclose(expected, reference(inside, spacing))
    assert np.allclose(signed_distance(inside, spacing, unknown), expected, atol=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(6))
def test_maps_of_all_classes_with_room_for_all_are_exact(setting, seed):
    shape, spacing = SETTINGS[setting]
    segmentation = blobs(shape, seed)
    maps = signed_distance_maps(segmentation[None], spacing, [1, 2, 3], margin=1000.0)
    assert maps.dtype == torch.float16
    for label, made in zip([1, 2, 3], maps.float().numpy(), strict=True):
        assert np.allclose(made, reference(segmentation == label, spacing), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", range(3))
def test_relative_maps_count_in_mean_depths_of_the_object(setting, seed):
    shape, spacing = SETTINGS[setting]
    segmentation = blobs(shape, seed)
    maps = signed_distance_maps(segmentation[None], spacing, [1, 2, 3], margin=1000.0, relative=True)
    for label, made in zip([1, 2, 3], maps.float().numpy(), strict=True):
        inside = segmentation == label
        distance, half = reference(inside, spacing), min(spacing) / 2
        if not distance.any():
            continue
        depths = [half - distance[voxel] for voxel in map(tuple, np.argwhere(inside))]
        depth = sum(depths) / len(depths)
        for voxel in np.ndindex(shape):
            expected = max(-1, min(1, (distance[voxel] - half) / depth))
            assert made[voxel] == pytest.approx(expected, abs=1e-3)
            assert (made[voxel] < 0) == inside[voxel]


def test_a_relative_map_is_the_same_at_every_size():
    inside = np.zeros((12, 12), bool)
    inside[4:8, 3:9] = True
    small, large = (relative_distance(signed_distance(inside, (s, s)), (s, s)) for s in (0.5, 8.0))
    assert np.allclose(small, large, atol=1e-6)
    assert small.min() == -1
    assert small.max() == 1


def test_beyond_the_window_the_way_to_it_is_added():
    spacing, margin = (2.0, 1.0, 1.0), 4.0
    segmentation = np.zeros((20, 40, 40), np.int16)
    segmentation[8:11, 10:20, 12:15] = 1
    segmentation[9, 12:16, 15] = 1
    made = signed_distance_maps(segmentation[None], spacing, [1], margin=margin)[0].float().numpy()
    exact = distance_transform_edt(segmentation == 0, sampling=spacing)  # outside, the border is the object
    low, high = np.array([8 - 2, 10 - 4, 12 - 4]), np.array([11 + 2, 20 + 4, 16 + 4])
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = segmentation == 1
    assert np.allclose(made[window][~inside[window]], exact[window][~inside[window]], rtol=1e-3)
    for voxel in map(tuple, np.argwhere(~inside)):
        nearest = np.clip(voxel, low, high - 1)
        way = np.sqrt((((np.array(voxel) - nearest) * spacing) ** 2).sum())
        assert made[voxel] == pytest.approx(exact[tuple(nearest)] + way, rel=2e-3, abs=1e-3)
    assert (made[~inside] >= exact[~inside] * (1 - 1e-3)).all()
    # continuous: neighbours differ by the way between them at most
    assert np.abs(np.diff(made, axis=0)).max() <= 2.0 * 1.01
    assert np.abs(np.diff(made, axis=2)).max() <= 1.0 * 1.05


def test_classes_without_a_border_in_the_patch_have_zeros():
    segmentation = np.full((1, 6, 6), 2, np.int16)
    assert not signed_distance_maps(segmentation, (1.0, 1.0), [1, 2]).any()  # absent, and everywhere
    segmentation[0, 3, 3] = 0
    maps = signed_distance_maps(segmentation, (1.0, 1.0), [1, 2])
    assert not maps[0].any()
    assert maps[1, 3, 3] == 1
    assert maps[1, 0, 0] < -2


def test_a_class_that_is_not_there_can_be_far_away():
    def maps(segmentation, ignore_label=None):
        return signed_distance_maps(segmentation, (1.0, 1.0), [1, 2], ignore_label, relative=True, absent=True)

    segmentation = np.full((1, 6, 6), 2, np.int16)
    not_there, everywhere = maps(segmentation)
    assert (not_there == 1).all() and not everywhere.any()
    segmentation[0, 3, 3] = 0
    assert torch.equal(maps(segmentation)[1], signed_distance_maps(segmentation, (1.0, 1.0), [1, 2], relative=True)[1])
    segmentation[0, 0, 0] = 3  # ignored
    expected = torch.ones(6, 6, dtype=torch.float16)
    expected[0, 0] = 0
    assert torch.equal(maps(segmentation, 3)[0], expected)


@pytest.mark.parametrize("setting", SETTINGS)
def test_regions_and_ignored_voxels(setting):
    shape, spacing = SETTINGS[setting]
    segmentation = blobs(shape, 5)
    ignored = np.random.default_rng(0).random(shape) < 0.1
    regions = np.stack([segmentation > 0, segmentation == 2, ignored])
    regions[:2, ignored] = False
    maps = signed_distance_maps(regions, spacing, None, ignore_label=4, margin=1000.0).float().numpy()
    for made, inside in zip(maps, regions[:2], strict=True):
        expected = np.where(ignored, 0, reference(inside, spacing, ignored))
        assert np.allclose(made, expected, rtol=1e-3, atol=1e-3)
    without = signed_distance_maps(regions[:2], spacing, None, margin=1000.0).float().numpy()
    assert np.allclose(without[0], reference(regions[0], spacing), rtol=1e-3, atol=1e-3)

    labelled = np.where(ignored, 4, segmentation).astype(np.int16)
    maps = signed_distance_maps(labelled[None], spacing, [1, 2, 3], ignore_label=4, margin=1000.0).float().numpy()
    expected = np.where(ignored, 0, reference(labelled == 2, spacing, ignored))
    assert np.allclose(maps[1], expected, rtol=1e-3, atol=1e-3)


def test_the_transform_appends_to_what_the_loader_batches():
    segmentation = torch.from_numpy(blobs((8, 10), 0)[None])
    transform = pickle.loads(pickle.dumps(AddDistanceMaps((1.0, 2.0), [1, 2, 3], None)))  # sent to the workers
    with_levels = transform(image=torch.zeros(1, 8, 10), segmentation=[segmentation, segmentation[:, ::2, ::2]])
    assert [t.shape for t in with_levels["segmentation"]] == [(1, 8, 10), (1, 4, 5), (3, 8, 10)]
    alone = transform(image=torch.zeros(1, 8, 10), segmentation=segmentation)
    assert torch.equal(alone["segmentation"][0], segmentation)
    assert torch.equal(alone["segmentation"][1], with_levels["segmentation"][2])
