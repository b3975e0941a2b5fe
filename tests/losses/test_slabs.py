"""Slabs cover every row of the maps once."""

import pytest
import torch

from nnunet_ext.losses.slabs import slabs


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 40, 64, 64), (1, 2, 3, 300, 300), (1, 4, 1, 1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_slabs_cover_the_first_axis(shape, device):
    maps = torch.empty(shape, device=device)
    rows = [row for start, length in slabs(maps) for row in range(start, start + length)]
    assert rows == list(range(shape[2]))


def test_a_slab_on_a_device_is_larger():
    maps = torch.empty(1, 2, 64, 64, 64)
    assert len(list(slabs(maps))) == 16
    assert list(slabs(torch.empty(1, 2, 3, 200, 200))) == [(0, 1), (1, 1), (2, 1)], "never less than a row"
    assert len(list(slabs(maps.to("meta")))) == 2
