"""J_C of PaNN: the primal-dual form against the closed form of the KL, and the ascent of the duals."""

import math

import numpy as np
import pytest
import torch

from nnunet_ext.labels import REGIONS, LabelLayout
from nnunet_ext.losses.prior import DualVariables, marginal_kl, mean_prediction, prior_aware_loss
from tests.conftest import COMPILERS

SHAPES = {"2D": (2, 3, 5, 6), "3D": (2, 3, 3, 4, 2)}
PRIOR = torch.tensor([0.9, 0.08, 0.02], dtype=torch.float64)


def logits_of(shape, seed=0):
    return 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kl(q, p):
    """One class against the rest."""
    return sum(a * math.log(a / b) for a, b in ((q, p), (1 - q, 1 - p)) if a > 0)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_equation_1_in_loops(shape, masked):
    logits = logits_of(shape)
    known = torch.rand(shape[0], 1, *shape[2:], generator=torch.Generator().manual_seed(1)) < 0.5 if masked else None
    sums, count = np.zeros(3), 0
    for b, *voxel in np.ndindex(shape[0], *shape[2:]):
        if known is None or known[(b, 0, *voxel)]:
            exponentials = np.array([math.exp(logits[(b, c, *voxel)]) for c in range(3)])
            sums += exponentials / exponentials.sum()
            count += 1
    np.testing.assert_allclose(mean_prediction(logits, known).numpy(), sums / count, rtol=1e-12)
    regions = mean_prediction(logits, known, REGIONS)
    inside = torch.sigmoid(logits).movedim(1, -1)
    inside = inside.reshape(-1, 3) if known is None else inside[known[:, 0]]
    np.testing.assert_allclose(regions.numpy(), inside.numpy().mean(0), rtol=1e-12)


def test_the_mean_of_no_voxel_is_zero():
    assert torch.equal(mean_prediction(logits_of((1, 3, 2, 2)), torch.zeros(1, 1, 2, 2)), torch.zeros(3).double())


def test_the_closed_form_is_the_kl_of_every_class_against_the_rest():
    mean = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    expected = sum(kl(q, p) for q, p in zip(PRIOR.tolist(), mean.tolist(), strict=True))
    assert marginal_kl(mean, PRIOR).item() == pytest.approx(expected, rel=1e-12)
    assert marginal_kl(PRIOR, PRIOR).item() == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("regions", [False, True])
def test_at_optimal_duals_loss_and_gradient_are_those_of_the_kl(shape, regions):
    results = []
    for closed_form in (True, False):
        logits = logits_of(shape).requires_grad_()
        mean = mean_prediction(logits, layout=LabelLayout(regions))
        fixed = mean.detach()
        loss = marginal_kl(mean, PRIOR) if closed_form else prior_aware_loss(mean, PRIOR, -1 / fixed, -1 / (1 - fixed))
        loss.backward()
        results.append((loss.item(), logits.grad))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-12)
    assert torch.allclose(results[1][1], results[0][1], rtol=1e-10)
    assert results[0][1].abs().max() > 1e-4  # and it is not zero in both
    assert torch.autograd.gradcheck(
        lambda x: prior_aware_loss(
            mean_prediction(x, layout=LabelLayout(regions)), PRIOR, -3 * torch.ones(3), -2 * torch.ones(3)
        ),
        logits_of((1, 3, *[2] * (len(shape) - 2))).requires_grad_(),
    )


def test_other_duals_give_less_than_the_kl():
    mean = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    nu, mu = -1 / mean, -1 / (1 - mean)
    best = prior_aware_loss(mean, PRIOR, nu, mu)
    for factor in (0.3, 0.9, 1.1, 4.0):
        assert prior_aware_loss(mean, PRIOR, factor * nu, mu) < best
        assert prior_aware_loss(mean, PRIOR, nu, factor * mu) < best


def test_duals_begin_at_minus_one_over_the_prior():
    duals = DualVariables(PRIOR)
    assert torch.allclose(duals.nu, -1 / PRIOR)
    assert torch.allclose(duals.mu, -1 / (1 - PRIOR))


@pytest.mark.parametrize(("step", "rate"), [("scaled", 0.02), ("plain", 20.0)])
def test_duals_converge_on_a_fixed_stream(step, rate):
    """Batches scatter around p; a falling learning rate averages them."""
    p = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    duals = DualVariables(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), step)
    generator = torch.Generator().manual_seed(0)
    for i in range(4000):
        batch = p * (1 + 0.1 * torch.randn(3, generator=generator, dtype=torch.float64))
        duals.ascend(batch, rate * (1 - i / 4000) ** 0.9)
        assert (duals.nu <= -1).all()
        assert (duals.mu <= -1).all()
    assert torch.allclose(duals.nu, -1 / p, rtol=0.02)
    assert torch.allclose(duals.mu, -1 / (1 - p), rtol=0.02)


def test_a_scaled_step_moves_small_organs_as_fast_as_large_ones_a_plain_step_hardly_at_all():
    prior = torch.tensor([0.9, 0.099, 0.001], dtype=torch.float64)
    mean = prior / 2
    way = {}
    for step in ("scaled", "plain"):
        duals = DualVariables(prior, step)
        for _ in range(100):
            duals.ascend(mean, 0.02)
        way[step] = ((duals.nu + 1 / prior) / (-1 / mean + 1 / prior)).tolist()
    reached = (1 - 0.98**100) / (1 + 0.98**100)  # of the way in nu = -1/a, where a decays from q to q/2
    assert way["scaled"] == pytest.approx([reached] * 3, rel=1e-9)
    assert way["plain"][2] < 1e-6


def test_a_plain_step_is_the_gradient_of_equation_9():
    mean = torch.tensor([0.7, 0.25, 0.05], dtype=torch.float64)
    duals = DualVariables(PRIOR, "plain")
    nu, mu = duals.nu.clone().requires_grad_(), duals.mu.clone().requires_grad_()
    prior_aware_loss(mean, PRIOR, nu, mu).backward()
    duals.ascend(mean, 0.1)
    assert torch.allclose(duals.nu, nu.detach() + 0.1 * nu.grad)
    assert torch.allclose(duals.mu, mu.detach() + 0.1 * mu.grad)


@pytest.mark.parametrize("step", ["scaled", "plain"])
def test_a_class_that_no_patch_contains_and_one_that_fills_all(step):
    """q = 0: only the term of mu is left, and it pushes the class away."""
    prior = torch.tensor([1.0, 0.0])
    duals = DualVariables(prior, step)
    for _ in range(50):
        duals.ascend(torch.tensor([0.99, 0.01]), 0.02)
        duals.ascend(torch.tensor([1.0, 0.0]), 0.02)
    mean = torch.tensor([0.9, 0.1], requires_grad=True)
    loss = duals.loss(mean)
    loss.backward()
    assert torch.isfinite(loss)
    assert mean.grad[0] < 0 < mean.grad[1]
    assert mean.grad.abs().max() < 2
    assert torch.isfinite(duals.loss(torch.zeros(2)))


def test_one_organ_that_is_predicted_too_rarely_is_pulled_up():
    prior = torch.tensor([0.95, 0.05])
    duals = DualVariables(prior)
    mean = torch.tensor([0.99, 0.01], requires_grad=True)
    for _ in range(500):
        duals.ascend(mean, 0.02)
    loss = duals.loss(mean)
    loss.backward()
    assert loss.item() == pytest.approx(2 * kl(0.05, 0.01), rel=1e-3)
    assert mean.grad[1] < 0 < mean.grad[0]


def test_saved_duals_go_on_as_they_were():
    duals, restored = DualVariables(PRIOR.float()), DualVariables(torch.full((3,), 0.5))
    duals.ascend(torch.tensor([0.5, 0.3, 0.2]), 0.3)
    restored.load_state_dict(duals.state_dict())
    for made in (duals, restored):
        made.ascend(torch.tensor([0.2, 0.3, 0.5]), 0.1)
    for name, value in duals.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name


def test_an_unknown_step_is_refused():
    with pytest.raises(ValueError, match="scaled, plain"):
        DualVariables(PRIOR, "newton")


@pytest.mark.parametrize("backend", COMPILERS)
def test_half_precision_is_lifted_and_compiles_in_one_graph(backend):
    logits = logits_of((2, 3, 64, 64))
    compiled = torch.compile(mean_prediction, fullgraph=True, backend=backend)
    assert compiled(logits.half()).dtype == torch.float32
    assert torch.allclose(compiled(logits.half()).double(), mean_prediction(logits), rtol=1e-3)


@pytest.mark.parametrize("step", ["scaled", "plain"])
def test_a_batch_that_overflowed_does_not_stay_in_the_duals(step):
    duals = DualVariables(torch.tensor([0.9, 0.1]), step)
    duals.ascend(torch.tensor([0.8, 0.2]), 0.1)
    nu, mu = duals.nu.clone(), duals.mu.clone()
    duals.ascend(torch.tensor([float("nan"), 0.3]), 0.1)
    assert duals.nu[0] == nu[0]
    assert duals.mu[0] == mu[0]
    assert duals.nu[1] != nu[1]
    assert torch.isfinite(duals.loss(torch.tensor([0.9, 0.1])))


def test_the_mean_of_one_voxel_is_its_probability():
    logits = logits_of(SHAPES["2D"])
    valid = torch.zeros(2, 1, 5, 6, dtype=torch.bool)
    valid[1, 0, 2, 3] = True
    expected = torch.softmax(logits, 1)[1, :, 2, 3]
    torch.testing.assert_close(mean_prediction(logits, valid), expected)


def test_duals_of_a_class_that_is_nowhere_or_everywhere_are_finite():
    duals = DualVariables(torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64))
    assert duals.nu.tolist() == pytest.approx([-1e6, -1, -2])
    assert duals.mu.tolist() == pytest.approx([-1, -1e6, -2])
