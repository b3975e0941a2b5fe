"""Eq. 9 and Algorithm 1 against plain references."""

import itertools
import math

import pytest
import torch
from torch import nn

from nnunet_ext.networks.coarse_to_fine import CoarseToFineNetwork, SaliencyTransformation, SliceNetwork, relative_dice
from nnunet_ext.networks.multi_level import AtrousNetwork, MultiLevelNetwork
from nnunet_ext.networks.slices import slices_of, unit_colours, units_of

NARROW = (4, 4, 8, 8)


def made(heads=3, channels=1, **options):
    torch.manual_seed(0)
    coarse = AtrousNetwork(unit_colours(channels), heads, 2, NARROW, 8, (2, 3))
    fine = MultiLevelNetwork(unit_colours(channels, heads + 1), heads, NARROW, 8, (2, 3), attention_heads=2)
    return CoarseToFineNetwork(coarse, fine, heads, **{"margin": 2, "multiple": 4, **options})


def plain_convolution(x, layer):
    """A size-preserving convolution of (C, H, W), by loops."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    radius = weight.shape[2] // 2
    out = torch.zeros(len(weight), *x.shape[1:], dtype=torch.float64)
    for o, y, z in itertools.product(*map(range, out.shape)):
        value = bias[o].clone()
        for dy, dz in itertools.product(range(-radius, radius + 1), repeat=2):
            if 0 <= y + dy < x.shape[1] and 0 <= z + dz < x.shape[2]:
                value += (weight[o, :, dy + radius, dz + radius] * x[:, y + dy, z + dz]).sum()
        out[o, y, z] = value
    return out


@pytest.mark.parametrize("regions", [False, True])
def test_the_fine_network_sees_equation_9(regions):
    network = made(heads=2, channels=2)
    network.set_regions(regions)
    network.train()
    seen = []
    network.fine.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 2, 3, 11, 9)
    truth = torch.zeros(1, 1, 3, 11, 9, dtype=torch.bool)
    truth[0, 0, 1, 4:6, 5] = True
    maps = network(x, truth=truth)
    # Rows 4 and 5, column 5, a margin of 2, grown to a multiple of 4 within 11 x 9 pixels.
    assert maps["windows"].tolist() == [[1, 1, 8, 8]] * 3
    top, left, height, width = maps["windows"][0].tolist()
    assert maps["final"].shape == (1, 2, 3, height, width)
    coarse = slices_of(maps["coarse"]).detach().double()
    probabilities = torch.sigmoid(coarse) if regions else torch.softmax(coarse, 1)
    units = units_of(x).double()
    for z in range(3):
        hidden = plain_convolution(probabilities[z], network.saliency.first)
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
        saliency = plain_convolution(hidden, network.saliency.second)
        products = [saliency[k] * units[z, channel] for k in range(2) for channel in range(6)]
        expected = torch.cat([torch.stack(products), units[z]])[:, top : top + height, left : left + width]
        assert torch.allclose(seen[0][z].double(), expected, atol=1e-4)


def test_gradient_passes_through_the_saliency_and_not_through_the_box():
    network = made()
    network.train()
    x = torch.randn(2, 1, 24, 24)
    truth = torch.zeros(2, 1, 24, 24, dtype=torch.bool)
    truth[..., 8:12, 9:13] = True

    def gradients(**arguments):
        network.zero_grad()
        network(x, **arguments)["region"].square().mean().backward()
        return [p.grad for p in network.coarse.parameters()], [p.grad for p in network.saliency.parameters()]

    coarse, saliency = gradients(truth=truth, apart=True)
    assert all(gradient is None for gradient in coarse)  # phase 1
    assert all(gradient.any() for gradient in saliency)
    for arguments in ({"truth": truth}, {}):  # phases 2 and 3
        coarse, saliency = gradients(**arguments)
        assert all(gradient is not None and gradient.any() for gradient in [*coarse, *saliency])

    class Ones(SaliencyTransformation):  # without saliency, the box alone joins the two
        def forward(self, probabilities):
            return torch.ones_like(probabilities)

    network.saliency = Ones(3)
    network.zero_grad()
    maps = network(x)
    assert not maps["windows"].requires_grad
    maps["region"].square().mean().backward()
    assert all(p.grad is None for p in network.coarse.parameters())


def test_rdsc_is_equation_14():
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.rand(3, 2, 5, 5, generator=generator) > 0.5 for _ in range(2))
    before[2] = after[2] = False
    expected = []
    for b in range(3):
        p, q = set(before[b].nonzero().unbind()), set(after[b].nonzero().unbind())
        p, q = ({tuple(i.tolist()) for i in found} for found in (p, q))
        expected.append(2 * len(p & q) / (len(p) + len(q)) if p or q else 1.0)
    assert relative_dice(before, after).tolist() == pytest.approx(expected)


class Scripted(nn.Module):
    """A network whose n-th answer is foreground within ``found[n]`` (rows of the whole slice, by patch)."""

    def __init__(self, found):
        super().__init__()
        self.found, self.calls = found, 0

    def forward(self, units, noise=None, guided=True, layout=None):
        rows = self.found[min(self.calls, len(self.found) - 1)]
        self.calls += 1
        logits = torch.zeros(units.shape[0], 2, *units.shape[2:])
        logits[:, 1] = -1.0
        logits[:, 1, :rows] = 1.0
        return {"final": logits}


@pytest.mark.parametrize(
    ("answers", "rounds", "agreement"),
    [
        ([10], 1, 1.0),  # RDSC is 1 at once
        ([12, 12], 2, 1.0),
        ([15, 14, 14], 3, 1.0),
        ([20, 30, 20, 30, 20], 4, 0.8),  # never
    ],
)
def test_iteration_ends_at_the_tolerance_or_after_t_max(answers, rounds, agreement):
    """Algorithm 1 as it is meant; as it is printed, it would go on after having converged."""
    network = CoarseToFineNetwork(Scripted([10]), Scripted(answers), 2, margin=100, max_rounds=4)
    network.eval()
    logits = network(torch.zeros(1, 1, 40, 40))
    assert network.fine.calls == rounds
    assert network.rounds_used == [(rounds, pytest.approx(agreement))]
    assert logits.argmax(1).sum() == 40 * answers[min(rounds, len(answers)) - 1]


def test_iteration_may_be_switched_off():
    network = CoarseToFineNetwork(Scripted([10]), Scripted([20, 30]), 2, margin=100, max_rounds=1)
    assert network.eval()(torch.zeros(1, 1, 40, 40)).argmax(1).sum() == 40 * 20
    network.max_rounds = 0
    assert network(torch.zeros(1, 1, 40, 40)).argmax(1).sum() == 40 * 10
    assert math.isnan(network.rounds_used[-1][1])


def test_what_the_fine_network_did_not_see_is_background():
    network = CoarseToFineNetwork(Scripted([10]), Scripted([999]), 2, margin=3, multiple=1, max_rounds=1)
    network.eval()
    for regions, outside in ((False, [5.0, -5.0]), (True, [-10.0, -10.0])):
        network.set_regions(regions)
        network.coarse.calls = network.fine.calls = 0
        logits = network(torch.zeros(1, 1, 40, 40))
        height = 13  # ten rows and the margin
        assert (logits[0, 1, :height] == 1).all()
        assert logits[0, :, height:].flatten(1).unique(dim=1)[:, 0].tolist() == outside
    network.set_regions(False)
    network.coarse, network.max_rounds = Scripted([0]), 1
    assert (network(torch.zeros(1, 1, 40, 40))[0, 1] == 1).all()  # nothing found: the whole slice


@pytest.mark.parametrize("spatial", [(23, 30), (4, 23, 30)])
@pytest.mark.parametrize("shared_box", [True, False])
@pytest.mark.parametrize("regions", [True, False])
def test_what_a_patch_becomes_does_not_depend_on_its_batch(spatial, shared_box, regions):
    network = made(shared_box=shared_box, tolerance=0.9, slices_at_once=3).double()  # float32 differs by batch size
    network.set_regions(regions)
    x = torch.randn(3, 1, *spatial, dtype=torch.float64)
    for _ in range(3):  # some statistics
        network(x)
    network.eval()
    with torch.inference_mode():
        together = network(x)
        apart = torch.cat([network(one[None]) for one in x])
    assert together.shape == (3, 3, *spatial)
    assert torch.allclose(together, apart, atol=1e-9)
    assert network.rounds_used[:3] == [(n, pytest.approx(a, abs=1e-6)) for n, a in network.rounds_used[3:]]


def test_rounds_can_be_looked_at_one_by_one():
    network = made(tolerance=2.0, max_rounds=3).eval()
    x = torch.randn(2, 1, 20, 20)
    with torch.no_grad():
        rounds = list(network.rounds(x))
        assert len(rounds) == 4
        assert torch.equal(rounds[-1][0], network(x))
        assert rounds[0][1].isnan().all()


def test_the_weights_tell_regions_and_guidance():
    network, other = made(), made()
    network.set_regions(True)
    network.set_guided(False)
    other.load_state_dict(network.state_dict())
    x = torch.randn(1, 1, 20, 20)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), other.eval()(x))
        other.set_guided(True)
        assert not torch.equal(network(x), other(x))


@pytest.mark.parametrize("whole", [False, True])
def test_it_compiles_around_the_iteration(whole):
    compiled_graphs = []

    def backend(graph, inputs):
        compiled_graphs.append(graph)
        return graph.forward

    network = (
        SliceNetwork(MultiLevelNetwork(unit_colours(1), 3, NARROW, 8, (2,), attention_heads=2)) if whole else made()
    )
    compiled = torch.compile(network, backend=backend)
    x = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        network.train()
        assert compiled(x)["final"].shape[:2] == (2, 3)
        network.eval()
        assert torch.allclose(compiled(x), network(x), atol=1e-5)
    convolutions = [node for graph in compiled_graphs for node in graph.graph.nodes if "conv2d" in str(node.target)]
    assert len(convolutions) > 20


def test_mixed_precision():
    network = made()
    x = torch.randn(2, 1, 4, 20, 20)
    truth = torch.zeros(2, 1, 4, 20, 20, dtype=torch.bool)
    truth[..., 5:9, 5:9] = True
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(x, torch.rand_like(x), truth)["final"].isfinite().all()
        network.eval()
        with torch.inference_mode():
            assert network(x).isfinite().all()
