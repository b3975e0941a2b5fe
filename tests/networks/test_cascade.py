"""Auto-context: what the second network of a cascade sees."""

import itertools

import pytest
import torch
from torch import nn

from nnunet_ext.networks.cascade import CascadedNetwork, normalise


class Recorder(nn.Module):
    """A convolution of 1 that remembers its input; a list of outputs as with deep supervision, if switched on."""

    def __init__(self, channels, out):
        super().__init__()
        self.layer = nn.Conv3d(channels, out, 1)
        self.decoder = nn.Module()
        self.decoder.deep_supervision = False

    def forward(self, x):
        self.seen = x
        return [self.layer(x)] * 2 if self.decoder.deep_supervision else self.layer(x)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 3, 3, 5, 4)])
def test_maps_are_normalised_one_by_one(shape):
    maps = 3 + 7 * torch.randn(shape, dtype=torch.float64)
    expected = torch.zeros_like(maps)
    for b, c in itertools.product(range(shape[0]), range(shape[1])):
        values = maps[b, c].flatten().tolist()
        mean = sum(values) / len(values)
        variance = sum((v - mean) ** 2 for v in values) / len(values)
        expected[b, c] = (maps[b, c] - mean) / (variance + 1e-5) ** 0.5
    assert torch.allclose(normalise(maps), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_logits_of_half_precision_stay_finite(dtype):
    maps = (2000 * torch.randn(1, 2, 8, 8, 8)).to(dtype)
    got = normalise(maps)
    assert got.dtype == torch.float32
    assert torch.allclose(got.std((2, 3, 4), correction=0), torch.ones(1, 2), atol=1e-3)


def test_a_constant_map_says_nothing():
    maps = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    got = normalise(maps)
    got.sum().backward()
    assert got.abs().max() == 0
    assert torch.isfinite(maps.grad).all()


def test_the_second_network_sees_image_and_normalised_maps():
    torch.manual_seed(0)
    first, second = Recorder(2, 3), Recorder(5, 3)
    network = CascadedNetwork(first, second)
    x = torch.randn(2, 2, 4, 5, 6)
    output = network(x)
    assert torch.equal(second.seen[:, :2], x)
    assert torch.equal(second.seen[:, 2:], normalise(first.layer(x)))
    assert torch.equal(output, second.layer(second.seen))


@pytest.mark.parametrize("deep_supervision", [False, True])
def test_the_second_network_may_correct_the_first_one(deep_supervision):
    first, second = Recorder(2, 3), Recorder(5, 3)
    network = CascadedNetwork(first, second, residual=True)
    network.decoder.deep_supervision = deep_supervision
    x = torch.randn(2, 2, 4, 5, 6)
    outputs = network(x)
    finest = outputs[0] if deep_supervision else outputs
    assert torch.equal(finest, first.layer(x) + second.layer(second.seen))
    assert torch.equal(second.seen[:, 2:], normalise(first.layer(x)))
    if deep_supervision:  # the coarser ones are the second network's alone
        assert torch.equal(outputs[1], CascadedNetwork(first, second)(x)[1])


@pytest.mark.parametrize("residual", [False, True])
def test_both_networks_learn_from_the_output_of_the_second(residual):
    torch.manual_seed(0)
    network = CascadedNetwork(Recorder(1, 2), Recorder(3, 2), residual).double()
    x = torch.randn(1, 1, 3, 3, 3, dtype=torch.float64)
    weights = torch.randn(1, 2, 3, 3, 3, dtype=torch.float64)
    (network(x) * weights).sum().backward()
    parameter = network.first.layer.weight
    gradient = parameter.grad.clone()
    for index in itertools.product(*map(range, parameter.shape)):
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter[index] += step
                values.append((network(x) * weights).sum().item())
                parameter[index] -= step
        assert gradient[index].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6)
    assert gradient.abs().max() > 1e-3


def test_deep_supervision_is_switched_in_the_second_network_alone():
    network = CascadedNetwork(Recorder(1, 2), Recorder(3, 2))
    network.decoder.deep_supervision = True
    assert len(network(torch.randn(1, 1, 3, 3, 3))) == 2
    assert not network.first.decoder.deep_supervision
