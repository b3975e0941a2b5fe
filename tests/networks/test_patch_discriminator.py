import pytest
import torch
from torch.nn import functional

from nnunet_ext.networks.patch_discriminator import PatchDiscriminator, layer_geometry


def test_isotropic_kernels_are_those_of_the_paper():
    kernels, strides = layer_geometry((1, 1, 1), (7, 5, 4), (4, 2, 1))
    assert kernels == [(7, 7, 7), (5, 5, 5), (4, 4, 4)]
    assert strides == [(4, 4, 4), (2, 2, 2), (1, 1, 1)]


def test_a_coarse_axis_waits_until_the_others_are_as_coarse():
    kernels, strides = layer_geometry((5.0, 0.8, 0.8), (7, 5, 4), (4, 2, 1))
    assert kernels == [(1, 7, 7), (5, 5, 5), (4, 4, 4)]  # 6 times as coarse, then 1.6 times
    assert strides == [(1, 4, 4), (2, 2, 2), (1, 1, 1)]
    kernels, _ = layer_geometry((10.0, 0.5, 0.5), (7, 5, 4), (4, 2, 1))
    assert kernels == [(1, 7, 7), (1, 5, 5), (1, 4, 4)]  # 20, then 5, then 2.5 times as coarse
    assert layer_geometry((2.0, 1.0), (7,), (4,)) == ([(7, 7)], [(4, 4)])


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.0, 1.0, 1.0)])
def test_forward_is_three_convolutions_with_leaky_relu_between(spacing):
    network = PatchDiscriminator(3, spacing).double()
    first, second, third = (layer for layer in network.layers if hasattr(layer, "weight"))
    convolve = functional.conv2d if len(spacing) == 2 else functional.conv3d
    maps = torch.rand(2, 3, *(24,) * len(spacing), dtype=torch.float64)
    x = functional.leaky_relu(convolve(maps, first.weight, first.bias, 4, 3), 0.2)
    x = functional.leaky_relu(convolve(x, second.weight, second.bias, 2, 2), 0.2)
    expected = convolve(x, third.weight, third.bias, 1, 2)
    assert torch.allclose(network(maps), expected, atol=1e-12)
    assert expected.shape[1] == 1


@pytest.mark.parametrize("shape", [(1, 5, 5), (2, 3, 40), (1, 1, 1)])
def test_tiny_patches_still_give_logits(shape):
    assert PatchDiscriminator(2, (8.0, 1.0, 1.0))(torch.rand(1, 2, *shape)).numel() > 0


def test_dimension_must_be_two_or_three():
    with pytest.raises(ValueError, match="spacing"):
        PatchDiscriminator(2, (1.0,))


def test_layers_must_agree():
    with pytest.raises(ValueError, match="needs as many kernels and one channel number fewer, got 3 and 3"):
        PatchDiscriminator(2, (1.0, 1.0), (8, 8, 8))


@pytest.mark.parametrize("dimension", [2, 3])
def test_five_convolutions_with_leaky_relu_and_batch_norm(dimension):
    torch.manual_seed(dimension)
    network = PatchDiscriminator(3, [1.0] * dimension, (4, 5, 6, 7), [4] * 5, (2, 2, 2, 1, 1), batch_norm=True).double()
    maps = torch.rand(2, 3, *[24] * dimension, dtype=torch.float64)
    convolve = functional.conv3d if dimension == 3 else functional.conv2d
    convolutions = [layer for layer in network.layers if hasattr(layer, "stride")]
    assert len(convolutions) == 5
    expected = maps
    for i, layer in enumerate(convolutions):
        expected = convolve(expected, layer.weight, layer.bias, 2 if i < 3 else 1, 2)
        if i < 4:
            expected = torch.where(expected > 0, expected, 0.2 * expected)
            axes = [0, *range(2, expected.ndim)]
            mean = expected.mean(axes, keepdim=True)
            expected = (expected - mean) / torch.sqrt(((expected - mean) ** 2).mean(axes, keepdim=True) + 1e-5)
    assert torch.allclose(network(maps), expected, atol=1e-9)
