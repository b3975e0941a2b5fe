"""Equations 2 to 6 of Lian et al. 2025 against the literal logarithms, written as loops in float64."""

import math

import pytest
import torch

from nnunet_ext.losses.adversarial import GeneratorLoss, discriminator_loss, generator_loss

SHAPES = [(2, 1, 5, 4), (3, 1, 3, 4, 2)]  # 2D and 3D patch logits


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def expectation(logits: torch.Tensor, function) -> float:
    values = [function(sigmoid(x)) for x in logits.flatten().tolist()]
    return sum(values) / len(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_discriminator_loss_is_equation_5(shape):
    real, fake = torch.randn(2, *shape, dtype=torch.float64) * 3
    expected = -expectation(real, math.log) - expectation(fake, lambda d: math.log(1 - d))
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("form", "term"), [("saturating", lambda d: math.log(1 - d)), ("non_saturating", lambda d: -math.log(d))]
)
def test_generator_loss_is_equation_4(shape, form, term):
    fake = torch.randn(shape, dtype=torch.float64) * 3
    assert generator_loss(fake, form).item() == pytest.approx(expectation(fake, term), rel=1e-10)
    assert GeneratorLoss(form)(fake).item() == generator_loss(fake, form).item()


@pytest.mark.parametrize("form", ["saturating", "non_saturating"])
def test_gradients(form):
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: generator_loss(x, form), logits)
    other = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(discriminator_loss, (logits, other))


def test_a_fooled_discriminator_pays_and_the_generator_gains():
    sure = torch.full((1, 1, 2, 2), 4.0)
    assert discriminator_loss(sure, -sure) < discriminator_loss(-sure, sure)
    for form in ("saturating", "non_saturating"):
        assert generator_loss(sure, form) < generator_loss(-sure, form)


def test_only_the_saturating_gradient_vanishes_when_the_discriminator_is_sure():
    gradients = {}
    for form in ("saturating", "non_saturating"):
        logits = torch.full((1,), -12.0, requires_grad=True)
        generator_loss(logits, form).backward()
        gradients[form] = abs(logits.grad.item())
    assert gradients["saturating"] < 1e-4
    assert gradients["non_saturating"] > 0.99


def test_half_precision_logits_are_lifted_before_the_logarithm():
    logits = torch.full((1, 1, 4, 4), 60000.0, dtype=torch.float16, requires_grad=True)
    loss = generator_loss(logits) + discriminator_loss(-logits, logits)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    # the mean of many halves would overflow if it were taken in half precision
    assert discriminator_loss(-logits, logits).item() == pytest.approx(2 * logits[0, 0, 0, 0].item())


def test_unknown_form_is_refused():
    with pytest.raises(ValueError, match="saturating"):
        GeneratorLoss("hinge")


def test_the_letter_of_the_paper_is_the_default():
    fake = torch.tensor([-1.0, 0.5, 3.0])
    expected = -torch.nn.functional.softplus(fake).mean()
    assert GeneratorLoss()(fake).item() == pytest.approx(expected.item())
    assert generator_loss(fake).item() == pytest.approx(expected.item())
