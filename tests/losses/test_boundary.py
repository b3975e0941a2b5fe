"""The boundary loss against Eq. 6 in loops."""

import itertools

import numpy as np
import pytest
import torch

from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses.boundary import boundary_loss, boundary_loss_of_logits
from tests.conftest import COMPILERS

SHAPES = {"2D": (2, 3, 5, 6), "3D": (2, 2, 3, 4, 5)}


def distances(inside, spacing):
    labels = torch.from_numpy(inside.astype(np.int16))
    return signed_distance_maps(labels[None].numpy(), spacing, [1], margin=1000.0)[None].double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_sum_of_equation_6_over_its_terms(shape):
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(shape, generator=generator, dtype=torch.float64)
    distance = 10 * torch.randn(shape, generator=generator, dtype=torch.float64)
    total = 0.0
    for index in np.ndindex(*shape):
        total += float(probabilities[index]) * float(distance[index])
    assert boundary_loss(probabilities, distance).item() == pytest.approx(total / np.prod(shape), rel=1e-12)
    probabilities.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: boundary_loss(p, distance), probabilities)


def test_the_ground_truth_itself_is_the_minimum():
    inside = np.zeros((8, 9, 10), bool)
    inside[2:6, 3:7, 2:8] = True
    distance = distances(inside, (2.0, 1.0, 1.0))
    perfect = boundary_loss(torch.from_numpy(inside)[None, None].double(), distance)
    assert perfect < 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = torch.rand(1, 1, *inside.shape, generator=generator, dtype=torch.float64)
        assert boundary_loss(other, distance) > perfect
        assert boundary_loss(other.round(), distance) > perfect


@pytest.mark.parametrize("axis", range(3))
def test_the_further_a_prediction_is_shifted_the_more_it_costs(axis):
    inside = np.zeros((24, 24, 24), bool)
    inside[6:12, 6:12, 6:12] = True
    distance = distances(inside, (1.0, 1.0, 1.0))
    losses = [
        float(boundary_loss(torch.from_numpy(np.roll(inside, n, axis))[None, None].double(), distance))
        for n in range(12)
    ]
    assert (np.diff(losses) > 0).all()


def test_a_shift_costs_its_millimetres_whatever_the_spacing():
    """An object of 12 mm in a field of 48 mm, shifted by 4 mm, sampled along one axis at 1 and at 2 mm."""
    losses = []
    for spacing in (1.0, 2.0):
        n = int(48 / spacing)
        inside = np.zeros((n, 48), bool)
        inside[int(16 / spacing) : int(28 / spacing), 16:28] = True
        shifted = np.roll(inside, int(4 / spacing), 0)
        distance = distances(inside, (spacing, 1.0))
        truth, prediction = (torch.from_numpy(m)[None, None].double() for m in (inside, shifted))
        losses.append(float(boundary_loss(prediction, distance) - boundary_loss(truth, distance)))
    assert losses[1] == pytest.approx(losses[0], rel=0.25)  # as exact as a border of one voxel is
    voxels = []  # the same shift in voxels costs more where voxels are larger
    for spacing in (1.0, 3.0):
        inside = np.zeros((24, 24), bool)
        inside[8:16, 8:16] = True
        distance = distances(inside, (spacing, spacing))
        truth, prediction = (torch.from_numpy(m)[None, None].double() for m in (inside, np.roll(inside, 2, 0)))
        voxels.append(float(boundary_loss(prediction, distance) - boundary_loss(truth, distance)))
    assert voxels[1] == pytest.approx(3 * voxels[0], rel=1e-3)


@pytest.mark.parametrize("backend", COMPILERS)
def test_half_precision_is_lifted_and_compiles_in_one_graph(backend):
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(1, 1, 64, 64, 32, generator=generator).half()
    distance = (300 * torch.randn(probabilities.shape, generator=generator)).half()
    expected = (probabilities.double() * distance.double()).mean().item()
    assert (probabilities * distance).mean().item() != pytest.approx(expected, rel=1e-4)
    assert boundary_loss(probabilities, distance).item() == pytest.approx(expected, rel=1e-4)
    compiled = torch.compile(boundary_loss, fullgraph=True, backend=backend)
    assert compiled(probabilities, distance).item() == pytest.approx(expected, rel=1e-4)


def relative_in_loops(probabilities, distance):
    """Dice loss of each class present, every voxel weighing its distance; their mean."""
    losses = []
    for label in range(distance.shape[1]):
        shared = predicted = true = 0.0
        for sample in range(distance.shape[0]):
            flat = zip(probabilities[sample, label].flatten(), distance[sample, label].flatten(), strict=True)
            for p, phi in flat:
                shared += float(p) * abs(float(phi)) if phi < 0 else 0.0
                predicted += float(p) * abs(float(phi))
                true += abs(float(phi)) if phi < 0 else 0.0
        if true:
            losses.append(1 - 2 * shared / (predicted + true))
    return sum(losses) / len(losses)


def test_relative_it_is_a_dice_loss_weighted_by_distance():
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    distance = torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    distance[:, 1] = 0  # absent from both samples
    distance[0, 2] = 0  # absent from one
    loss = boundary_loss(probabilities, distance, relative=True)
    assert loss.item() == pytest.approx(relative_in_loops(probabilities, distance), rel=1e-12)
    probabilities.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: boundary_loss(p, distance, relative=True), probabilities)
    boundary_loss(probabilities, distance, relative=True).backward()
    assert not probabilities.grad[:, 1].any()
    assert boundary_loss(probabilities, torch.zeros_like(distance), relative=True).item() == 0


def test_relative_it_has_no_reason_to_leave_out_what_is_in_doubt():
    """One of two places holds the organ, neither likelier: half a probability in both costs less than none."""
    truths = []
    for place in (slice(4, 8), slice(16, 20)):
        inside = np.zeros((24, 24), bool)
        inside[10:14, place] = True
        truths.append(inside)
    maps = [distances(inside, (2.0, 2.0)) for inside in truths]
    half = torch.from_numpy((truths[0] | truths[1]) / 2)[None, None]
    expected = {
        (name, relative): sum(float(boundary_loss(guess, distance, relative=relative)) for distance in maps)
        for name, guess in {"half": half, "none": torch.zeros_like(half)}.items()
        for relative in (False, True)
    }
    assert expected["half", True] < expected["none", True]
    assert expected["half", False] > expected["none", False]


def test_relative_it_knows_no_unit_field_of_view_or_size():
    generator = torch.Generator().manual_seed(0)
    inside = np.zeros((30, 30), bool)
    inside[8:16, 5:17] = True
    distance = distances(inside, (1.0, 1.0))
    truth = torch.from_numpy(inside)[None, None].double()
    assert boundary_loss(truth, distance, relative=True).item() == pytest.approx(0, abs=1e-12)
    assert boundary_loss(1 - truth, distance, relative=True).item() == pytest.approx(1, abs=1e-12)
    guess = torch.rand(1, 1, 30, 30, generator=generator, dtype=torch.float64)
    loss = boundary_loss(guess, distance, relative=True).item()
    assert boundary_loss(guess, 3 * distance, relative=True).item() == pytest.approx(loss, rel=1e-12)
    further = torch.nn.functional.pad(distance, (9, 9, 9, 9), value=20.0)
    wider = torch.nn.functional.pad(guess, (9, 9, 9, 9))
    assert boundary_loss(wider, further, relative=True).item() == pytest.approx(loss, rel=1e-12)
    repeated = [m.repeat_interleave(2, 2).repeat_interleave(2, 3) for m in (guess, distance)]
    assert boundary_loss(*repeated, relative=True).item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("relative", [False, True], ids=["mm", "relative"])
@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
@pytest.mark.parametrize("shape", [(2, 4, 37, 23), (2, 3, 5, 7, 11), (1, 3, 3, 150, 150)], ids=["2D", "3D", "slabs"])
def test_of_logits_it_has_the_value_and_gradient_through_the_probabilities(shape, regions, relative):
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    classes = shape[1] if regions else shape[1] - 1
    distance = (10 * torch.randn(shape[0], classes, *shape[2:], generator=generator)).half()
    distance[:, -1] = 0
    gradients, values = [], []
    for closed_form in (True, False):
        z = logits.clone().requires_grad_()
        if closed_form:
            loss = boundary_loss_of_logits(z, distance, LabelLayout(regions), relative)
        else:
            loss = boundary_loss(torch.sigmoid(z) if regions else torch.softmax(z, 1)[:, 1:], distance, relative)
        (7 * loss).backward()
        gradients.append(z.grad)
        values.append(loss.item())
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-15)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
def test_of_logits_it_passes_the_numerical_check(regions):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 3, 4, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    distance = torch.randn(2, 3 if regions else 2, 3, 4, 2, generator=generator, dtype=torch.float64)
    layout = LabelLayout(regions)
    for relative in (False, True):
        assert torch.autograd.gradcheck(lambda z, r=relative: boundary_loss_of_logits(z, distance, layout, r), logits)
        with torch.no_grad():
            without = boundary_loss_of_logits(logits, distance, layout, relative)
        value = boundary_loss_of_logits(logits, distance, layout, relative).item()
        assert without.item() == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("backend", COMPILERS)
def test_of_logits_in_half_precision_it_is_lifted_and_compiles_in_one_graph(backend):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 64, 64, 32, generator=generator).half().requires_grad_()
    distance = (300 * torch.randn(1, 1, 64, 64, 32, generator=generator)).half()
    compiled = torch.compile(boundary_loss_of_logits, fullgraph=True, backend=backend)
    for function, relative in itertools.product((boundary_loss_of_logits, compiled), (False, True)):
        expected = boundary_loss(torch.softmax(logits.detach().double(), 1)[:, 1:], distance, relative).item()
        loss = function(logits, distance, relative=relative)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected, rel=1e-3)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.dtype == torch.float16


@pytest.mark.parametrize("of_logits", [False, True])
def test_relative_an_organ_of_one_voxel_is_there_and_an_absent_one_has_no_gradient(of_logits):
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    distance = torch.full((1, 2, 3, 4), 2.0, dtype=torch.float64)
    distance[0, 0, 1, 1] = -1.0  # the second region is nowhere: all of it is outside
    logits.requires_grad_()
    layout = LabelLayout(regions=True)
    if of_logits:
        loss = boundary_loss_of_logits(logits, distance, layout, relative=True)
    else:
        loss = boundary_loss(torch.sigmoid(logits), distance, relative=True)
    p = torch.sigmoid(logits.detach())[0, 0]
    wrong = 2 * (p.sum() - p[1, 1])
    expected = 1 - 2 * p[1, 1] / (p[1, 1] + wrong + 1)
    assert loss.item() == pytest.approx(float(expected), rel=1e-9)
    loss.backward()
    assert logits.grad[:, 0].abs().min() > 0
    assert not logits.grad[:, 1].any()


def test_of_logits_it_is_in_mm_unless_asked_otherwise():
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(4))
    distance = 10 * torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(5))
    expected = boundary_loss(torch.softmax(logits, 1)[:, 1:], distance)
    assert boundary_loss_of_logits(logits, distance).item() == pytest.approx(expected.item(), rel=1e-5)
