"""The pixel loss against Eq. 10 and section 2.4 in loops."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses.uncertain_points import (
    IMPORTANCE,
    OVERSAMPLING,
    at_points,
    draw_points,
    least_certain,
    point_cross_entropy,
    uncertain_point_loss,
    voxels_of,
)
from tests.conftest import COMPILERS

SHAPES = {"2D": ((4, 5), (16, 20)), "3D": ((3, 4, 5), (12, 16, 20))}


def interpolate(maps, point):
    """Linear interpolation of maps (C, *spatial) at one point from -1 to 1, the outermost values held."""
    shape = maps.shape[1:]
    corners = [(1.0, ())]
    for n, where in zip(shape, point, strict=True):
        position = min(max((where + 1) / 2 * n - 0.5, 0.0), n - 1.0)
        low = min(math.floor(position), n - 1)
        high, part = min(low + 1, n - 1), position - low
        corners = [
            (weight * share, (*index, i)) for weight, index in corners for i, share in ((low, 1 - part), (high, part))
        ]
    return sum(weight * maps[(slice(None), *index)] for weight, index in corners)


def voxel_of(target, point):
    """Value of the voxel that holds the point."""
    index = [
        min(n - 1, max(0, math.floor((where + 1) / 2 * n))) for n, where in zip(target.shape[1:], point, strict=True)
    ]
    return target[(slice(None), *index)]


def reference(logits, target, candidates, others, number, ignore_label=None, regions=False):
    """Section 2.4 point by point: the least certain of the candidates, and the others, cross-entropy."""
    total, counted = 0.0, 0
    for b in range(logits.shape[0]):
        sure, values, truths, valid = [], [], [], []
        for point in (*candidates[b].tolist(), *others[b].tolist()):
            value = interpolate(logits[b].numpy(), point)
            truth = voxel_of(target[b].numpy(), point)
            probabilities = 1 / (1 + np.exp(-value)) if regions else np.exp(value) / np.exp(value).sum()
            ranked = np.sort(probabilities)
            is_valid = True
            if ignore_label is not None:
                is_valid = truth[-1] == 0 if regions else truth[0] != ignore_label
            certainty = np.abs(probabilities - 0.5).min() if regions else ranked[-1] - ranked[-2]
            sure.append(certainty if is_valid else np.inf)
            values.append(probabilities)
            truths.append(truth)
            valid.append(is_valid)
        sought = len(candidates[b])
        uncertain = np.argsort(sure[:sought], kind="stable")[:number]
        for i in (*uncertain, *range(sought, len(sure))):
            if not valid[i]:
                continue
            counted += 1
            if regions:
                truth = truths[i][: len(values[i])]
                total -= np.mean(np.where(truth == 1, np.log(values[i]), np.log(1 - values[i])))
            else:
                total -= np.log(values[i][int(truths[i][0])])
    return total / max(counted, 1)


def inputs(shape, regions=False, ignore_label=None, classes=3, seed=0):
    coarse, fine = SHAPES[shape]
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *coarse, generator=generator, dtype=torch.float64)
    if regions:
        channels = classes + (ignore_label is not None)
        target = torch.rand(2, channels, *fine, generator=generator) < 0.4
    else:
        values = classes if ignore_label is None else ignore_label + 1
        target = torch.randint(0, values, (2, 1, *fine), generator=generator).short()
    points = draw_points(2, 65, len(coarse), torch.device("cpu"), generator).double()
    return logits, target, points[:, :60], points[:, 60:]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("ignore_label", [None, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_equation_10(shape, regions, ignore_label, seed):
    logits, target, candidates, others = inputs(shape, regions, ignore_label, seed=seed)
    expected = reference(logits, target, candidates, others, 15, ignore_label, regions)
    loss = uncertain_point_loss(logits, target, candidates, others, 15, LabelLayout(regions, ignore_label))
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    different = reference(logits, target, candidates[:, :15], others, 15, ignore_label, regions)
    assert different != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("regions", [False, True])
def test_the_gradient_is_right_and_stays_at_the_points(shape, regions):
    logits, target, candidates, others = inputs(shape, regions)
    # Few points, so that a small step changes no ranking.
    points = candidates[:, :9], others[:, :1]
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: uncertain_point_loss(x, target, *points, 2, LabelLayout(regions)), logits)

    certain = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    certain[:, 0] = torch.linspace(-9, 9, 8, dtype=torch.float64)[:, None]  # uncertain between rows 3 and 4
    certain.requires_grad_()
    many = draw_points(1, 600, 2, torch.device("cpu"), torch.Generator().manual_seed(0)).double()
    uncertain_point_loss(certain, torch.zeros(1, 1, 32, 32), many, many[:, :0], 200).backward()
    rows = certain.grad[0].abs().sum((0, 2))
    assert rows[3:5].min() > 0
    assert rows[[0, 7]].max() == 0


def test_points_are_distinct_and_as_many_as_asked_for():
    logits, _, candidates, _ = inputs("3D")
    chosen = least_certain(logits, candidates, 20)
    assert chosen.shape == (2, 20)
    for row in chosen.tolist():
        assert len(set(row)) == 20


def test_ignored_points_are_not_sought_and_do_not_count():
    logits, target, candidates, others = inputs("2D", ignore_label=3)
    target[:] = 3
    loss = uncertain_point_loss(logits.requires_grad_(), target, candidates, others, 15, LabelLayout(ignore_label=3))
    loss.backward()
    assert loss == 0
    assert logits.grad.abs().max() == 0


def test_points_mean_the_same_place_at_every_resolution():
    fine = torch.arange(16.0).reshape(1, 1, 16, 1).expand(1, 1, 16, 16)
    coarse = torch.nn.functional.avg_pool2d(fine, 4)
    points = draw_points(1, 50, 2, torch.device("cpu"), torch.Generator().manual_seed(0)) * 0.7
    assert torch.allclose(at_points(fine, points), at_points(coarse, points), atol=1e-4)


def test_the_draw_is_uniform_and_follows_its_generator():
    first, second, other = (
        draw_points(2, 5000, 3, torch.device("cpu"), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1
    assert torch.allclose(first.std((0, 1)), torch.full((3,), 1 / 3**0.5), atol=0.02)


@pytest.mark.parametrize("backend", COMPILERS)
def test_half_precision_is_lifted_and_compiles_in_one_graph(backend):
    logits, target, candidates, others = inputs("3D")
    half = (1000 * logits).half()
    points = candidates.float(), others.float(), 15
    expected = uncertain_point_loss(half.float(), target, *points)
    assert torch.isfinite(expected)
    assert uncertain_point_loss(half, target, *points).item() == pytest.approx(expected.item())
    compiled = torch.compile(uncertain_point_loss, fullgraph=True, backend=backend)
    assert compiled(half, target, *points).item() == pytest.approx(expected.item())


def test_points_are_drawn_on_the_cpu_for_every_device():
    with FakeTensorMode():  # which knows no generator of a device
        points = draw_points(2, 5, 3, torch.device("cuda"), torch.Generator())
    assert points.device.type == "cuda"


def test_k_and_m_are_the_paper_s():
    assert (OVERSAMPLING, IMPORTANCE) == (3, 0.75)  # section 2.4


@pytest.mark.parametrize("dimensions", [2, 3])
def test_points_on_the_edge_belong_to_the_outermost_voxels(dimensions):
    shape = (3, 4, 5)[:dimensions]
    maps = torch.arange(math.prod(shape)).reshape(1, 1, *shape)
    edges = torch.tensor([[[-1.0] * dimensions, [1.0] * dimensions]])
    assert voxels_of(maps, edges).flatten().tolist() == [0, math.prod(shape) - 1]


@pytest.mark.parametrize("regions", [False, True])
def test_the_mean_over_one_point_that_counts_is_its_value(regions):
    layout = LabelLayout(regions, 9)
    logits = torch.tensor([[[0.3, 1.0, -2.0], [-0.5, 0.2, 4.0]]], dtype=torch.float64)
    if regions:
        truth = torch.tensor([[[1, 0, 1], [0, 1, 1], [0, 1, 1]]])  # the last channel marks what is ignored
        p = torch.sigmoid(logits[0, :, 0])
        expected = -(torch.log(p[0]) + torch.log(1 - p[1])) / 2
    else:
        truth = torch.tensor([[[1, 9, 9]]])
        expected = -torch.log_softmax(logits[0, :, 0], 0)[1]
    assert point_cross_entropy(logits, truth, layout).item() == pytest.approx(float(expected), rel=1e-9)
