"""The structural network against plain references, and against torchvision's ResNet-18."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses.uncertain_points import at_points
from nnunet_ext.networks import multi_level
from nnunet_ext.networks.multi_level import (
    AtrousNetwork,
    ConvolutionalFusion,
    MultiLevelNetwork,
    PixelAttention,
    SaliencyGuidance,
    SharedLayers,
    centres,
    group_normalised,
    scatter_points,
    uncertain_pixels,
)

NARROW = (4, 4, 8, 8)


def test_the_models_have_the_size_of_the_paper_s():
    """Table 8: 3.1e7 and 3.6e7 parameters, of a coarse and a fine network for one organ."""
    colours = [0, 1, 2]
    coarse = AtrousNetwork(colours, 1, 2)
    for fine, millions in ((AtrousNetwork(2 * colours, 1), 31), (MultiLevelNetwork(2 * colours, 1), 36)):
        parameters = sum(p.numel() for network in (coarse, fine) for p in network.parameters())
        assert round(parameters / 1e6) == millions


def test_attention_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    layer = PixelAttention(5, 8, heads=2).double()
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    got = layer(x)
    weight = {name: value.detach() for name, value in layer.state_dict().items()}
    for n in range(3):
        tokens = [weight["enter.weight"][:, :, 0] @ x[n, :, i] + weight["enter.bias"] for i in range(7)]
        projected = [weight["attention.in_proj_weight"] @ t + weight["attention.in_proj_bias"] for t in tokens]
        for i in range(7):
            mixed = torch.zeros(8, dtype=torch.float64)
            for head in range(2):
                own = slice(4 * head, 4 * head + 4)
                query = projected[i][:8][own]
                scores = [math.exp(float(query @ p[8:16][own]) / math.sqrt(4)) for p in projected]
                for score, p in zip(scores, projected, strict=True):
                    mixed[own] += score / sum(scores) * p[16:][own]
            y = tokens[i] + weight["attention.out_proj.weight"] @ mixed + weight["attention.out_proj.bias"]
            y = y + (weight["pointwise.weight"][:, :, 0] @ y + weight["pointwise.bias"]).clamp(min=0)
            y = (weight["shared.weight"][:, :, 0] @ y + weight["shared.bias"]).clamp(min=0)
            assert torch.allclose(got[n, :, i], y)


@pytest.mark.parametrize("kind", [AtrousNetwork, MultiLevelNetwork])
def test_upsampling_is_the_network_on_enlarged_slices(kind):
    torch.manual_seed(0)
    network = kind([0, 1, 2], 2, features=NARROW, channels=8, rates=(2, 3)).double().eval()
    x = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    plain = network(interpolate(x, (36, 60), mode="bilinear"), guided=False)
    network.upsampling = 3
    enlarged = network(x, guided=False)
    assert enlarged["final"].shape == (2, 2, 12, 20)
    centre = plain["final"][:, :, 1::3, 1::3]  # the centre of each pixel's three by three
    assert torch.allclose(enlarged["final"], centre)


def test_guidance_is_section_3_4():
    torch.manual_seed(0)
    module = SaliencyGuidance(3, 2).double().eval()
    module.norm.running_mean.uniform_(-1, 1)
    module.norm.running_var.uniform_(1, 2)
    region, boundary, pixel = (torch.randn(1, 3, 2, 2, dtype=torch.float64) for _ in range(3))
    got = module(region, boundary, pixel)
    for y in range(2):
        for x in range(2):
            r, b, p = (maps[0, :, y, x] for maps in (region, boundary, pixel))
            products = []
            for weighting, features in ((module.boundary_weight, b), (module.pixel_weight, p)):
                maps = torch.sigmoid(weighting.weight[:, 0, 0] * (b + p) + weighting.bias[:, 0, 0])
                products.append(r * maps * features)
            mixed = module.mix.weight[:, :, 0, 0] @ torch.cat(products)
            mixed = (mixed - module.norm.running_mean) / (module.norm.running_var + 1e-5).sqrt()
            mixed = mixed.clamp(min=0)
            assert torch.allclose(got[0, :, y, x], module.head.weight[:, :, 0, 0] @ mixed + module.head.bias)


def test_only_the_uncertain_positions_hold_features():
    points = torch.tensor([[3, 7, 0], [11, 4, 5]])
    features = torch.randn(2, 6, 3)
    slices = scatter_points(features, points, (3, 4))
    expected = torch.zeros(2, 6, 3, 4)
    for n in range(2):
        for p in range(3):
            expected[n, :, points[n, p] // 4, points[n, p] % 4] = features[n, :, p]
    assert torch.equal(slices, expected)
    assert torch.allclose(centres(points, (3, 4))[0, 1], torch.tensor([0.0, 0.75]))  # row 1 of 3, column 3 of 4


@pytest.mark.parametrize("regions", [False, True])
def test_pixels_are_the_least_certain_and_others_at_random(regions):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 6, 8, generator=generator)
    noise = torch.rand(2, 1, 6, 8, generator=generator)
    points = uncertain_pixels(logits, 12, noise, LabelLayout(regions))
    for n in range(2):
        certainty = []
        for i in range(48):
            values = logits[n, :, i // 8, i % 8].double()
            if regions:
                certainty.append(min(abs(1 / (1 + math.exp(-v)) - 0.5) for v in values.tolist()))
            else:
                high = sorted(torch.softmax(values, 0).tolist())
                certainty.append(high[-1] - high[-2])
        order = sorted(range(48), key=certainty.__getitem__)
        assert sorted(points[n, :9].tolist()) == sorted(order[:9])
        left = sorted(order[9:], key=lambda i: -noise[n, 0, i // 8, i % 8])
        assert sorted(points[n, 9:].tolist()) == sorted(left[:3])
        assert sorted(uncertain_pixels(logits, 12, None, LabelLayout(regions))[n].tolist()) == sorted(order[:12])


@pytest.mark.parametrize(("pixel_module", "fusion"), [("attention", "guidance"), ("mlp", "convolutions")])
def test_a_residual_fusion_starts_as_the_region_branch_and_learns(pixel_module, fusion):
    torch.manual_seed(4)
    network = MultiLevelNetwork(
        [0, 1, 2], 3, NARROW, 8, (2, 3), attention_heads=2, pixel_module=pixel_module, fusion=fusion, residual=True
    )
    image, noise = torch.randn(2, 3, 22, 30), torch.rand(2, 1, 22, 30)
    maps = network(image, noise)
    assert torch.equal(maps["final"], maps["region"])
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        network(image, noise)["final"].square().mean().backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in network.fusion.parameters())
    maps = network(image, noise)
    correction = network.fusion(*features_of(network, image, maps["points"]))
    torch.testing.assert_close(maps["final"], maps["region"] + correction)
    assert correction.abs().max() > 0


def features_of(network, image, points):
    """What the fusion is given: features of all three levels in the size of the image."""
    early, deep = network.backbone(image)
    size = image.shape[2:]
    region, boundary = (
        nn.functional.interpolate(branch(deep), size, mode="bilinear", align_corners=False)
        for branch in (network.region, network.boundary)
    )
    pixel = network.pixel(at_points(early, centres(points, size)))
    return region, boundary, scatter_points(pixel, points, size)


@pytest.mark.parametrize(("pixel_module", "fusion"), [("attention", "guidance"), ("mlp", "convolutions")])
def test_every_weight_of_the_structural_network_learns(pixel_module, fusion):
    torch.manual_seed(0)
    network = MultiLevelNetwork(
        [0, 1, 2], 3, NARROW, 8, (2, 3), attention_heads=2, pixel_module=pixel_module, fusion=fusion
    )
    x = torch.randn(2, 3, 22, 30)
    maps = network(x, torch.rand(2, 1, 22, 30))
    assert maps["final"].shape == maps["region"].shape == maps["boundary"].shape == (2, 3, 22, 30)
    assert maps["pixel"].shape == (2, 3, maps["points"].shape[1])
    assert maps["points"].shape == (2, 22 * 30 // 16)
    sum(maps[name].square().mean() for name in ("final", "region", "boundary", "pixel")).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
    expected = (SharedLayers, ConvolutionalFusion) if fusion == "convolutions" else (PixelAttention, SaliencyGuidance)
    assert (type(network.pixel), type(network.fusion)) == expected
    unguided = network(x, guided=False)
    assert torch.equal(unguided["final"], unguided["region"])


def test_group_normalisation_takes_a_batch_of_one_slice():
    network = group_normalised(AtrousNetwork([0, 1, 2], 2, features=NARROW, channels=8, rates=(2,)))
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert network(torch.randn(1, 3, 16, 16))["final"].shape == (1, 2, 16, 16)


@pytest.mark.parametrize("regions", [False, True])
def test_the_pixels_of_the_network_are_those_of_its_region_noise_and_labels(regions):
    torch.manual_seed(0)
    network = MultiLevelNetwork([0, 1, 2], 3, NARROW, 8, (1, 2), attention_heads=2, pixels_per_point=16).eval()
    x, noise = torch.randn(2, 3, 16, 24), torch.rand(2, 1, 16, 24)
    layout = LabelLayout(regions)
    with torch.no_grad():
        maps = network(x, noise, True, layout)
        expected = uncertain_pixels(maps["region"], 24, noise, layout)
        assert torch.equal(maps["points"], expected)
        assert not torch.equal(maps["points"], network(x, None, True, layout)["points"])
        assert not torch.equal(maps["points"], network(x, noise, True, LabelLayout(not regions))["points"])


def test_centres_lie_in_the_middle_of_their_pixels():
    points = torch.tensor([[0, 4, 14]])  # of a slice of 3 x 5: the first pixel, the end of the first row, the last one
    expected = [[-1 + 1 / 3, -1 + 1 / 5], [-1 + 1 / 3, 1 - 1 / 5], [1 - 1 / 3, 1 - 1 / 5]]
    torch.testing.assert_close(centres(points, (3, 5))[0], torch.tensor(expected))
    middle = centres(torch.tensor([[7]]), (3, 5))
    torch.testing.assert_close(middle, torch.zeros(1, 1, 2))


def test_four_layers_of_points_and_four_convolutions_fuse():
    assert sum(isinstance(layer, nn.Conv1d) for layer in SharedLayers(5, 8)) == 4
    fusion = [layer for layer in ConvolutionalFusion(8, 2).modules() if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in fusion] == [(3, 3)] * 4 + [(1, 1)]


def test_groups_are_sixteen_where_the_channels_allow_at_every_depth():
    module = nn.Sequential(nn.BatchNorm2d(32), nn.Sequential(nn.Sequential(nn.BatchNorm2d(48)), nn.BatchNorm2d(20)))
    group_normalised(module)
    assert [layer.num_groups for layer in module.modules() if isinstance(layer, nn.GroupNorm)] == [16, 16, 1]
    deep = group_normalised(nn.Sequential(nn.Sequential(nn.BatchNorm2d(12))), groups=4)
    assert [layer.num_groups for layer in deep.modules() if isinstance(layer, nn.GroupNorm)] == [4]


def test_maps_are_enlarged_between_the_centres_of_pixels():
    torch.manual_seed(0)
    network = MultiLevelNetwork([0, 1, 2], 2, NARROW, 8, (1, 2), attention_heads=2).eval()
    x = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        region = network.region_head(network.region(network.backbone(x)[1]))
        expected = nn.functional.interpolate(region, (16, 16), mode="bilinear", align_corners=False)
        torch.testing.assert_close(network(x)["region"], expected)


@pytest.mark.parametrize("fusion", ["guidance", "convolutions"])
def test_slices_are_fused_in_parts_with_the_same_outcome_in_less_memory(fusion, monkeypatch):
    torch.manual_seed(0)
    whole = MultiLevelNetwork([0, 1, 2], 3, NARROW, 8, (2, 3), attention_heads=2, fusion=fusion).double()
    parted = copy.deepcopy(whole)
    x = torch.randn(5, 3, 16, 24, dtype=torch.float64)
    noise = torch.rand(5, 1, 16, 24, dtype=torch.float64)
    outcome = []
    for network, slices in ((whole, 5), (parted, 2)):
        monkeypatch.setattr(multi_level, "_PIXELS_AT_ONCE", slices * 16 * 24)
        kept = {}

        def keep(tensor, kept=kept):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            maps = network(x, noise)
        sum((maps[name] ** 2).sum() for name in ("final", "region", "boundary", "pixel")).backward()
        outcome.append((maps, sum(kept.values())))
        network.eval()
        with torch.no_grad():
            maps["evaluated"] = network(x)["final"]
    (maps, bytes_kept), (in_parts, bytes_kept_in_parts) = outcome
    assert maps.keys() == in_parts.keys()
    for name, values in maps.items():
        assert torch.allclose(values, in_parts[name]), name
    for (name, one), other in zip(whole.named_parameters(), parted.parameters(), strict=True):
        assert one.grad is not None and torch.allclose(one.grad, other.grad), name
    for (name, one), other in zip(whole.named_buffers(), parted.buffers(), strict=True):
        assert torch.allclose(one, other), name  # normalisation counts every slice once
    assert bytes_kept_in_parts < 0.8 * bytes_kept
