"""Eq. 12 and the pixel term of Eq. 13 against plain float64 loops."""

import math

import pytest
import torch

from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses.multi_level import pixel_loss, scaled_distance, signed_distance_loss


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


@pytest.mark.parametrize("with_mask", [False, True])
def test_signed_distance_loss_is_equation_12(with_mask):
    generator = torch.Generator().manual_seed(0)
    prediction = 3 * torch.randn(2, 2, 3, 4, dtype=torch.float64, generator=generator)
    phi = 2 * torch.rand(2, 2, 3, 4, dtype=torch.float64, generator=generator) - 1
    mask = torch.rand(2, 1, 3, 4, generator=generator) > 0.3 if with_mask else None
    boundary = regression = 0.0
    number = 0
    for n in range(2):
        for c in range(2):
            for y in range(3):
                for x in range(4):
                    if mask is not None and not mask[n, 0, y, x]:
                        continue
                    p, distance = float(prediction[n, c, y, x]), float(phi[n, c, y, x])
                    boundary += sigmoid(p) * distance
                    regression += (p - (-5 * distance)) ** 2 / 25
                    number += 1
    got = signed_distance_loss(prediction, phi, mask)
    assert got.item() == pytest.approx((boundary + regression) / number)


def test_the_distance_itself_is_the_minimum_of_the_regression():
    generator = torch.Generator().manual_seed(1)
    phi = 2 * torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=generator) - 1

    def terms(prediction):
        regression = signed_distance_loss(prediction, phi) - (torch.sigmoid(prediction) * phi).mean()
        return regression, (torch.sigmoid(prediction) * phi).mean()

    assert terms(-5 * phi)[0].abs() < 1e-12
    ideal = terms(-1e3 * phi)[1]  # of the boundary loss: one inside, nothing outside
    for _ in range(20):
        other = 5 * torch.randn(phi.shape, dtype=torch.float64, generator=generator)
        assert terms(other)[0] > 0
        assert terms(other)[1] > ideal
    assert terms(torch.zeros_like(phi))[0] <= 1


def test_the_distance_is_clipped_and_known_without_a_border():
    distance = torch.tensor([-30.0, -5.0, 0.0, 2.0, 40.0], dtype=torch.float16).reshape(1, 1, 1, 5)
    inside = torch.tensor([1, 1, 1, 0, 0]).reshape(1, 1, 1, 5)
    expected = torch.tensor([-1.0, -0.5, 0.0, 0.2, 1.0]).reshape(1, 1, 1, 5)
    assert torch.allclose(scaled_distance(distance, inside), expected)
    nothing, everything = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert torch.equal(scaled_distance(nothing, nothing), everything)
    assert torch.equal(scaled_distance(nothing, everything), -everything)


def test_half_precision_is_lifted():
    prediction = torch.full((1, 1, 4, 4), 300.0, dtype=torch.float16)
    assert signed_distance_loss(prediction, torch.ones(1, 1, 4, 4)).item() == pytest.approx(1 + 61**2)


@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_pixel_loss_is_the_cross_entropy_of_the_pixels(regions, ignore):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(2, 3, 5, dtype=torch.float64, generator=generator)
    points = torch.stack([torch.randperm(24, generator=generator)[:5] for _ in range(2)])
    if regions:
        target = torch.randint(0, 2, (2, 3 + (ignore is not None), 4, 6), generator=generator)
    else:
        target = torch.randint(0, 3 + (ignore is not None), (2, 1, 4, 6), generator=generator)
    total, number = 0.0, 0
    for n in range(2):
        for i in range(5):
            truth = target[n, :, points[n, i] // 6, points[n, i] % 6].tolist()
            values = logits[n, :, i].tolist()
            if ignore is not None and (truth[-1] if regions else truth[0] == ignore):
                continue
            if regions:
                wrong = [1 - sigmoid(v) if t else sigmoid(v) for v, t in zip(values, truth, strict=False)]
                total -= sum(math.log(1 - w) for w in wrong) / 3
            else:
                total -= math.log(math.exp(values[truth[0]]) / sum(math.exp(v) for v in values))
            number += 1
    assert pixel_loss(logits, points, target, LabelLayout(regions, ignore)).item() == pytest.approx(total / number)


def test_a_perfect_pixel_branch_costs_nothing():
    target = torch.randint(0, 3, (1, 1, 4, 4))
    points = torch.arange(16)[None]
    logits = 100 * torch.nn.functional.one_hot(target.flatten(1), 3).transpose(1, 2).float()[:, 0:3]
    assert pixel_loss(logits.reshape(1, 3, 16), points, target) == 0


def test_the_mean_over_one_pixel_that_counts_is_its_value():
    prediction = torch.randn(1, 1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    phi = torch.rand(1, 1, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = torch.zeros(1, 1, 3, 4)
    mask[0, 0, 1, 2] = 1
    x, distance = float(prediction[0, 0, 1, 2]), float(phi[0, 0, 1, 2])
    expected = sigmoid(x) * distance + (x / 5 + distance) ** 2
    assert signed_distance_loss(prediction, phi, mask, steepness=5).item() == pytest.approx(expected, rel=1e-9)


def test_of_two_classes_the_absent_one_is_outside_everywhere_and_the_other_keeps_its_distance():
    distance = torch.stack([torch.zeros(3, 4), torch.linspace(-8, 8, 12).reshape(3, 4)])[None]
    phi = scaled_distance(distance, torch.zeros(1, 2, 3, 4), 10.0)
    torch.testing.assert_close(phi[:, 0], torch.ones(1, 3, 4))
    torch.testing.assert_close(phi[:, 1], distance[:, 1] / 10)
