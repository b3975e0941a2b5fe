"""Units of three slices, and windows, crop and paste."""

import numpy as np
import pytest
import torch

from nnunet_ext.networks.slices import (
    crop,
    of_one_size,
    paste,
    patches_of,
    slices_of,
    unit_colours,
    units_of,
    windows_of,
)


def test_a_unit_is_a_slice_with_its_true_neighbours():
    images = torch.randn(2, 3, 4, 5, 6)
    units = units_of(images)
    assert units.shape == (8, 9, 5, 6)
    for b in range(2):
        for z in range(4):
            for slice_, neighbour in enumerate((max(z - 1, 0), z, min(z + 1, 3))):
                for channel in range(3):
                    unit_channel = units[4 * b + z, 3 * slice_ + channel]
                    assert torch.equal(unit_channel, images[b, channel, neighbour])
    assert unit_colours(3) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    flat = images[:, :, 0]
    assert torch.equal(units_of(flat), torch.cat([flat] * 3, 1))
    assert torch.equal(patches_of(slices_of(images), 2, True), images)
    assert torch.equal(patches_of(slices_of(flat), 2, False), flat)


@pytest.mark.parametrize(("margin", "multiple"), [(0, 1), (2, 1), (1, 4), (3, 8), (30, 16)])
def test_windows_are_minimal_boxes_with_a_margin(margin, multiple):
    generator = torch.Generator().manual_seed(0)
    height, width = 21, 30
    inside = torch.rand(40, height, width, generator=generator) > 0.997
    inside[3] = False
    windows = windows_of(inside, margin, multiple)
    for one, (top, left, h, w) in zip(inside.numpy(), windows.tolist(), strict=True):
        for axis, (first, number, length) in enumerate(((top, h, height), (left, w, width))):
            hit = np.flatnonzero(one.any(1 - axis))
            low, high = (max(0, hit[0] - margin), min(length, hit[-1] + 1 + margin)) if len(hit) else (0, length)
            assert number == min(-(-(high - low) // multiple) * multiple, length)  # no larger than it must be
            assert 0 <= first <= low
            assert high <= first + number <= length


def test_slices_may_share_a_window():
    inside = torch.zeros(4, 10, 10, dtype=torch.bool)
    inside[0, 2, 3] = inside[1, 7, 3] = inside[2, 5, 5] = True
    assert windows_of(inside, 1, 1, together=2).tolist() == [[1, 2, 8, 3]] * 2 + [[4, 4, 3, 3]] * 2
    assert windows_of(inside, 1, 1).tolist() == [[1, 2, 3, 3], [6, 2, 3, 3], [4, 4, 3, 3], [0, 0, 10, 10]]


def test_crop_and_paste_are_exact_to_a_voxel():
    generator = torch.Generator().manual_seed(1)
    slices = torch.randn(6, 2, 19, 23, generator=generator)
    own = windows_of(torch.rand(6, 19, 23, generator=generator) > 0.99, 1, 4)
    windows = of_one_size(own, (19, 23))
    assert len({tuple(size) for size in windows[:, 2:].tolist()}) == 1
    for (top, left, h, w), (inner_top, inner_left, inner_h, inner_w) in zip(
        windows.tolist(), own.tolist(), strict=True
    ):
        assert 0 <= top <= inner_top
        assert inner_top + inner_h <= top + h <= 19
        assert 0 <= left <= inner_left
        assert inner_left + inner_w <= left + w <= 23
    crops = crop(slices, windows)
    for i, (top, left, h, w) in enumerate(windows.tolist()):
        for y in range(h):
            for x in range(w):
                assert torch.equal(crops[i, :, y, x], slices[i, :, top + y, left + x])
    assert torch.equal(paste(crops, windows, slices), slices)
    zeros = paste(crops, windows, torch.zeros_like(slices))
    assert torch.equal(crop(zeros, windows), crops)
    assert zeros.count_nonzero() == crops.count_nonzero()
