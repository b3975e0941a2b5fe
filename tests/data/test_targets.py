import pytest
import torch

from nnunet_ext.data.targets import target_maps


def loops(target, num_classes, ignore_label):
    maps = torch.zeros(target.shape[0], num_classes, *target.shape[2:])
    mask = torch.ones(target.shape, dtype=torch.bool)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in target.shape)).tolist():
        value = int(target[tuple(index)])
        if value == ignore_label:
            mask[tuple(index)] = False
        else:
            maps[(index[0], value, *index[2:])] = 1
    return maps, mask


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (2, 1, 3, 4, 2)])
@pytest.mark.parametrize("ignore_label", [None, 3])
def test_labels(shape, ignore_label):
    target = torch.randint(0, 4 if ignore_label else 3, shape, dtype=torch.int16)
    maps, mask = target_maps(target, 3, ignore_label)
    expected_maps, expected_mask = loops(target, 3, ignore_label)
    assert torch.equal(maps, expected_maps)
    if ignore_label is None:
        assert mask is None
    else:
        assert torch.equal(mask, expected_mask)
        assert not expected_mask.all()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16])
def test_regions_with_ignored_voxels(dtype):
    target = torch.randint(0, 2, (2, 3, 4, 4)).to(dtype)  # two regions and the ignore channel
    maps, mask = target_maps(target, 2, ignore_label=3, has_regions=True)
    ignored = target[:, 2:].bool()
    assert torch.equal(mask, ~ignored)
    assert torch.equal(maps, target[:, :2].float().masked_fill(ignored.expand(-1, 2, -1, -1), 0))


def test_regions_without_ignore_label():
    target = torch.randint(0, 2, (1, 2, 3, 3), dtype=torch.int16)
    maps, mask = target_maps(target, 2, has_regions=True)
    assert mask is None
    assert torch.equal(maps, target.float())


@pytest.mark.parametrize("ignore_label", [None, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_maps_of_bits_are_the_same(ignore_label, regions):
    channels = 2 + (ignore_label is not None) if regions else 1
    target = torch.randint(0, 2 if regions else 4 if ignore_label else 3, (2, channels, 4, 4), dtype=torch.int16)
    classes = 2 if regions else 3
    maps, _ = target_maps(target, classes, ignore_label, regions)
    bits, _ = target_maps(target, classes, ignore_label, regions, torch.bool)
    assert bits.dtype == torch.bool
    assert torch.equal(bits.float(), maps)
