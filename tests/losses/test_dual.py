"""Eq. 3 to 8 and Algorithm 1 against loops over voxels in float64, and their gradients."""

import math

import numpy as np
import pytest
import torch

from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses import slabs
from nnunet_ext.losses.dual import dice_of_sums, dice_sums, difference_loss, difference_region, sharpen, teaching_loss

SHAPES = [(2, 3, 4, 5), (1, 2, 3, 4, 2), (2, 4, 3, 3, 3)]


@pytest.fixture(autouse=True)
def several_slabs(monkeypatch):
    """The losses go through these small maps in more than one slab."""
    monkeypatch.setattr(slabs, "_CPU_VOXELS", 18)


def soft_dice_loss(*arguments):
    return dice_of_sums(dice_sums(*arguments))


def plain_probabilities(logits, regions):
    values = logits.detach().numpy().astype(np.float64)
    result = np.zeros_like(values)
    for b, *voxel in np.ndindex(values.shape[0], *values.shape[2:]):
        z = [values[(b, c, *voxel)] for c in range(values.shape[1])]
        for c, x in enumerate(z):
            rest = 1 if regions else sum(math.exp(y) for i, y in enumerate(z) if i != c)
            result[(b, c, *voxel)] = math.exp(x) / (math.exp(x) + rest)
    return result


def inputs(shape, regions, seed=None):
    seed = np.random.SeedSequence().entropy % 2**31 if seed is None else seed
    generator = torch.Generator().manual_seed(seed)
    print("seed", seed)
    first, second = (torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))
    if regions:
        truth = torch.randint(0, 2, shape, generator=generator).double()
    else:
        labels = torch.randint(0, shape[1], (shape[0], 1, *shape[2:]), generator=generator)
        truth = torch.zeros(shape, dtype=torch.float64).scatter_(1, labels, 1)
    known = torch.rand((shape[0], 1, *shape[2:]), generator=generator) < 0.8
    return first, second, truth, known


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_difference_loss_is_equations_3_and_6(shape, regions):
    first, second, truth, known = inputs(shape, regions)
    p, q = plain_probabilities(first, regions), plain_probabilities(second, regions)
    g, k = (truth * known).numpy(), known.numpy()
    errors, differing = [], 0
    region = difference_region(first, second, LabelLayout(regions))
    for b, *voxel in np.ndindex(shape[0], *shape[2:]):
        at_first, at_second = ([float(x[(b, c, *voxel)]) for c in range(shape[1])] for x in (p, q))
        if regions:
            differ = [(x > 0.5) != (y > 0.5) for x, y in zip(at_first, at_second, strict=True)]
            assert region[(b, slice(None), *voxel)].tolist() == differ
        else:
            here = int(np.argmax(at_first)) != int(np.argmax(at_second))
            assert bool(region[(b, 0, *voxel)]) == here
            differ = [here] * shape[1]
        for c in range(shape[1]):
            if differ[c] and k[(b, 0, *voxel)]:
                differing += 1
                errors.append((at_first[c] - g[(b, c, *voxel)]) ** 2 * (1 if regions else shape[1] / 2))
    assert differing > 0
    everywhere = region.numel() * (1 if regions else shape[1])
    with_label = int(known.sum()) * shape[1]
    for counted, number in ((None, everywhere), (known, with_label), (region & known, differing)):
        computed = difference_loss(first, truth * known, region & known, LabelLayout(regions), counted)
        assert computed.item() == pytest.approx(sum(errors) / number, rel=1e-9)


@pytest.mark.parametrize("regions", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_other_losses_are_the_plain_sums(shape, regions):
    first, second, truth, known = inputs(shape, regions)
    p, q = plain_probabilities(first, regions), plain_probabilities(second, regions)
    g, k = (truth * known).numpy(), known.numpy()

    # Eq. 5
    terms = {True: [], False: []}
    for b in range(shape[0]):
        for c in range(0 if regions else 1, shape[1]):
            overlap = both = size = 0.0
            for voxel in np.ndindex(*shape[2:]):
                if k[(b, 0, *voxel)]:
                    overlap += p[(b, c, *voxel)] * g[(b, c, *voxel)]
                    both += p[(b, c, *voxel)] + g[(b, c, *voxel)]
                    size += g[(b, c, *voxel)]
            terms[size > 0].append(1 - (2 * overlap + 1) / (both + 1))
    computed = soft_dice_loss(first, truth * known, known, LabelLayout(regions))
    counted = terms[True] or terms[False]
    assert computed.item() == pytest.approx(sum(counted) / len(counted), rel=1e-9)

    # Algorithm 1 and Eq. 8
    for temperature in (0.1, 0.5, 1.0):
        error, sharpened = 0.0, sharpen(second, temperature, LabelLayout(regions))
        for b, *voxel in np.ndindex(shape[0], *shape[2:]):
            powers = [q[(b, c, *voxel)] ** (1 / temperature) for c in range(shape[1])]
            for c in range(shape[1]):
                rest = (1 - q[(b, c, *voxel)]) ** (1 / temperature)
                target = powers[c] / (powers[c] + rest if regions else sum(powers))
                assert float(sharpened[(b, c, *voxel)]) == pytest.approx(target, rel=1e-7, abs=1e-12)
                error += (p[(b, c, *voxel)] - target) ** 2
        voxels = p.size if regions else 2 * p.size / shape[1]
        assert teaching_loss(first, sharpened, LabelLayout(regions)).item() == pytest.approx(error / voxels, rel=1e-7)


@pytest.mark.parametrize("regions", [False, True])
def test_gradients_reach_the_student_alone(regions):
    first, second, truth, known = inputs((1, 3, 2, 3), regions, seed=3)
    student, teacher = first.requires_grad_(), second.requires_grad_()
    region = difference_region(first, second, LabelLayout(regions))
    assert region.any()
    for counted in (None, known, region):
        assert torch.autograd.gradcheck(
            lambda z, n=counted: difference_loss(z, truth, region, LabelLayout(regions), n), student
        )
    assert torch.autograd.gradcheck(lambda z: soft_dice_loss(z, truth, known, LabelLayout(regions)), student)
    pseudo_label = sharpen(second.detach(), 0.1, LabelLayout(regions))
    assert torch.autograd.gradcheck(lambda z: teaching_loss(z, pseudo_label, LabelLayout(regions)), student)
    loss = teaching_loss(student, sharpen(teacher, 0.1, LabelLayout(regions)), LabelLayout(regions))
    assert torch.autograd.grad(loss, teacher, allow_unused=True) == (None,)


def test_networks_that_agree_have_no_difference_term():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    truth = torch.zeros(1, 3, 4, 4)
    loss = difference_loss(logits, truth, difference_region(logits, 2 * logits))
    assert loss.item() == 0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_without_foreground_the_network_that_marks_less_of_it_is_better():
    truth = torch.zeros(1, 2, 64, 64, 64)
    truth[:, 0] = 1
    losses = []
    for foreground in (-7.0, -6.9, 0.0):
        logits = torch.zeros(1, 2, 64, 64, 64)
        logits[:, 1] = foreground
        losses.append(soft_dice_loss(logits, truth).item())
    assert losses == sorted(losses)
    assert len(set(losses)) == 3
    assert 0 < losses[0] < losses[2] < 1


def test_a_class_that_is_not_there_does_not_choose_the_teacher():
    """Two samples, one without foreground, of which the worse network is surer."""
    truth = torch.zeros(2, 2, 32, 32, 32)
    truth[0, 1, 8:24, 8:24, 8:24] = 1
    truth[:, 0] = 1 - truth[:, 1]
    good = 10 * (truth - 0.5)
    bad = 14 * (truth - 0.5)
    bad[0, :, 6:8, 8:24, 8:24] *= -1  # a layer too much
    assert soft_dice_loss(bad[1:], truth[1:]) < soft_dice_loss(good[1:], truth[1:])
    assert soft_dice_loss(good, truth).item() == pytest.approx(soft_dice_loss(good[:1], truth[:1]).item(), abs=1e-6)
    assert soft_dice_loss(good, truth) < soft_dice_loss(bad, truth)


def test_half_precision_is_lifted_and_extreme_logits_stay_finite():
    logits = torch.tensor([[60000.0, -60000.0, 1.0, 0.0]]).reshape(1, 2, 2).half()
    for regions in (False, True):
        sharpened = sharpen(logits, 0.1, LabelLayout(regions))
        assert sharpened.dtype == torch.float32
        assert torch.isfinite(sharpened).all()
        assert torch.isfinite(teaching_loss(logits, sharpened, LabelLayout(regions)))


@pytest.mark.parametrize("regions", [False, True])
def test_one_voxel_is_enough(regions):
    """An organ of one voxel is there, and the mean over one voxel that counts is its value."""
    layout = LabelLayout(regions)
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = torch.zeros_like(logits)
    truth[0, 1, 1, 2] = 1
    sums = dice_sums(logits, truth, None, layout)
    assert sums[1] == 1
    known = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    known[0, 0, 1, 2] = True
    other = -logits
    region = difference_region(logits, other, layout) & known
    assert region.any()
    loss = difference_loss(logits, truth * known, region, layout, known)
    squares = (layout.probabilities(logits) - truth)[0, :, 1, 2] ** 2
    expected = squares.sum() / 2  # of regions the mean of both; of classes half the sum
    assert loss.item() == pytest.approx(float(expected), rel=1e-9)


def test_where_no_class_is_there_the_mean_over_all_decides():
    sums = dice_sums(torch.zeros(2, 3, 4, 5, dtype=torch.float64), torch.zeros(2, 3, 4, 5))
    expected = 1 - 1 / (20 / 3 + 1)  # 20 voxels of probability 1/3 and none of the class, smoothed by 1
    assert dice_of_sums(sums).item() == pytest.approx(expected, rel=1e-9)
