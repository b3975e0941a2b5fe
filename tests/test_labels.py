"""The layout of labels against plain loops over voxels."""

import itertools

import pytest
import torch

from nnunet_ext.labels import CLASSES, REGIONS, LabelLayout

SHAPES = [(5, 4), (3, 4, 5)]


def random_target(layout, channels, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if layout.regions:
        extra = layout.ignore_label is not None
        return torch.randint(0, 2, (2, channels + extra, *shape), generator=generator).short()
    values = channels if layout.ignore_label is None else channels + 1
    return torch.randint(0, values, (2, 1, *shape), generator=generator).short()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [CLASSES, REGIONS, LabelLayout(False, 3), LabelLayout(True, 3)])
def test_maps_and_valid_voxels_are_those_of_a_loop(layout, shape):
    target = random_target(layout, 3, shape)
    maps, valid = layout.maps(target, 3)
    assert maps.dtype == torch.float32
    assert (valid is None) == (layout.ignore_label is None)
    for b, *voxel in itertools.product(range(2), *map(range, shape)):
        at = target[(b, slice(None), *voxel)].tolist()
        counts = True
        if layout.ignore_label is not None:
            counts = at[-1] == 0 if layout.regions else at[0] != 3
            assert valid[(b, 0, *voxel)] == counts
        for c in range(3):
            inside = bool(at[c]) if layout.regions else at[0] == c
            assert maps[(b, c, *voxel)] == float(inside and counts)
    assert layout.maps(target, 3, torch.bool)[0].equal(maps.bool())
    if layout.ignore_label is not None and not layout.regions:
        assert layout.values(target).max() < 3
        assert (layout.values(target)[~valid] == 0).all()


@pytest.mark.parametrize("layout", [CLASSES, REGIONS])
def test_probabilities_and_hard_predictions(layout):
    logits = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    probabilities, hard = layout.probabilities(logits), layout.hard(logits)
    assert probabilities.dtype == torch.float64
    assert layout.probabilities(logits.half()).dtype == torch.float32
    power = logits.exp()
    expected = power / (1 + power) if layout.regions else power / power.sum(1, keepdim=True)
    assert torch.allclose(probabilities, expected)
    if layout.regions:
        assert hard.equal(expected > 0.5)
    else:
        assert hard.equal(expected.argmax(1, keepdim=True))
    assert layout.foreground == slice(0 if layout.regions else 1, None)
