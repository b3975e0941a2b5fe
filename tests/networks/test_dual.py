"""Two networks as one: which of them answers, and the residual counterpart of every network of the plans."""

from collections import Counter

import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from nnunet_ext.networks.dual import DualNetwork, residual_counterpart

UNET = "dynamic_network_architectures.architectures.unet."


class Counted(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(float(factor)))
        self.runs = 0

    def forward(self, x):
        self.runs += 1
        return [self.factor * x, self.factor * x[..., ::2]]


@pytest.mark.parametrize(
    ("weights", "factor", "runs"),
    [((0.5, 0.5), 3.0, (1, 1)), ((3, 1), 2.5, (1, 1)), ((1, 0), 2.0, (1, 0)), ((0, 5), 4.0, (0, 1))],
)
def test_the_weights_say_who_answers_and_are_in_the_state_dict(weights, factor, runs):
    x = torch.randn(2, 1, 4, 4)
    stored = DualNetwork(Counted(2), Counted(4), weights).state_dict()
    assert set(stored) == {"weights", "first.factor", "second.factor"}
    dual = DualNetwork(Counted(0), Counted(0))
    dual.load_state_dict(stored)
    outputs = dual(x)
    assert torch.allclose(outputs[0], factor * x)
    assert torch.allclose(outputs[1], factor * x[..., ::2])
    assert (dual.first.runs, dual.second.runs) == runs


def test_the_outputs_can_be_had_apart_and_the_weights_changed():
    dual = DualNetwork(Counted(2), Counted(4), (1, 0))
    x = torch.ones(3)
    dual.separate = True
    assert [outputs[0].tolist() for outputs in dual(x)] == [[2.0] * 3, [4.0] * 3]
    dual.separate = False
    assert dual(x)[0].tolist() == [2.0] * 3
    dual.set_weights((1, 3))
    assert dual.shares == (0.25, 0.75)
    assert dual(x)[0].tolist() == [3.5] * 3
    with pytest.raises(ValueError, match="must be at least 0 and not both 0"):
        dual.set_weights((0, 0))


@pytest.mark.parametrize("weights", [(0, 0), (-1, 2), (1,), (1, 1, 1)])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="must be at least 0 and not both 0"):
        DualNetwork(Counted(1), Counted(1), weights)


def arguments(dimension, **own):
    return {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
        "kernel_sizes": [[3] * dimension] * 3,
        "strides": [[1] * dimension, [2] * dimension, [2] * dimension],
        "n_conv_per_stage_decoder": [2, 2],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
        **own,
    }


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize(
    ("name", "own", "counterpart", "blocks", "decoder"),
    [
        ("PlainConvUNet", {"n_conv_per_stage": [2, 2, 5]}, "ResidualEncoderUNet", [1, 1, 2], [2, 1]),
        (
            "PlainConvUNet",
            {"n_conv_per_stage": 1, "nonlin_first": False, "n_conv_per_stage_decoder": 3},
            "ResidualEncoderUNet",
            [1, 1, 1],
            [3, 2],
        ),
        (
            "PlainConvUNet",
            {"n_conv_per_stage": 4, "n_conv_per_stage_decoder": [1, 1]},
            "ResidualEncoderUNet",
            [2, 2, 2],
            [1, 1],
        ),
        ("ResidualEncoderUNet", {"n_blocks_per_stage": [1, 3, 4]}, "ResidualUNet", [1, 3, 4], [2, 2]),
    ],
)
def test_the_counterpart_has_the_same_outputs(dimension, name, own, counterpart, blocks, decoder):
    given = arguments(dimension, **own)
    before = dict(given)
    found, changed = residual_counterpart(UNET + name, given)
    assert found == UNET + counterpart
    assert changed["n_blocks_per_stage"] == blocks
    assert changed["n_conv_per_stage_decoder"] == decoder
    assert given == before
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    networks = [
        get_network_from_plans(class_name, kwargs, imports, 2, 3, deep_supervision=True)
        for class_name, kwargs in ((UNET + name, given), (found, changed))
    ]
    x = torch.randn(1, 2, *[16] * dimension)
    shapes = [[o.shape for o in network(x)] for network in networks]
    assert shapes[0] == shapes[1]
    sizes = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert 0.5 < sizes[1] / sizes[0] < 2
    for network in networks:
        network.decoder.deep_supervision = False
        assert network(x).shape == (1, 3, *[16] * dimension)


def test_other_networks_have_no_counterpart():
    assert residual_counterpart("my.package.Transformer", {}) is None


@pytest.mark.parametrize("dimension", [2, 3])
def test_the_counterpart_of_a_plain_network_has_as_many_convolutions(dimension):
    """Counted where nnU-Net's own plans put them: two in every stage; projections of the skips (1 x 1) not counted."""
    given = arguments(dimension, n_conv_per_stage=2)
    imports = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    counts = []
    for name, kwargs in ((UNET + "PlainConvUNet", given), residual_counterpart(UNET + "PlainConvUNet", given)):
        sizes = Counter()

        def count(module, inputs, output, sizes=sizes):
            if set(module.kernel_size) == {3}:
                sizes[tuple(output.shape[2:])] += 1

        network = get_network_from_plans(name, kwargs, imports, 2, 3, deep_supervision=True)
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                module.register_forward_hook(count)
        network(torch.randn(1, 2, *[16] * dimension))
        counts.append(sizes)
    assert counts[0] == counts[1] == {(16,) * dimension: 4, (8,) * dimension: 4, (4,) * dimension: 2}


def test_only_the_last_stage_of_a_decoder_gives_a_convolution():
    arguments = {"n_stages": 4, "n_conv_per_stage": [2, 3, 4, 5], "n_conv_per_stage_decoder": [4, 3, 2]}
    _, counterpart = residual_counterpart("x.PlainConvUNet", arguments)
    assert counterpart["n_blocks_per_stage"] == [1, 1, 2, 2]
    assert counterpart["n_conv_per_stage_decoder"] == [4, 3, 1]
