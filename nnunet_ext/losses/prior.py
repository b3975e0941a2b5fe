"""Prior-aware loss: the mean prediction should show the organs in the proportions known from full annotations.

Source: Zhou et al. 2019 (Prior-aware Neural Network, PaNN), section 3.2 and 3.3. The logarithm of a mean over the
dataset (Eq. 2) has no unbiased stochastic gradient. With dual variables nu and mu the mean stands outside the logarithm
(Eq. 9) and a batch will do; where the duals are optimal, nu = -1/p and mu = -1/(1 - p), both forms and their gradients
agree.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch.special import xlogy

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.precision import full_precision

DualStep = Literal["scaled", "plain"]

# The smallest proportion that the duals tell from zero; keeps them finite for a class that is in no patch.
SMALLEST_PROPORTION = 1e-6


def mean_prediction(
    logits: torch.Tensor, valid: torch.Tensor | None = None, layout: LabelLayout = CLASSES
) -> torch.Tensor:
    """Mean probability of every class over the voxels of a batch (Eq. 1), in float32 at least, also under autocast.

    Args:
        logits: (B, C, *spatial).
        valid: (B, 1, *spatial), ``False`` for voxels that do not count (ignore label).
        layout: of the labels.

    Returns:
        (C,); zeros if no voxel counts.
    """
    probabilities = layout.probabilities(logits)
    voxels = [0, *range(2, logits.ndim)]
    if valid is None:
        return probabilities.mean(voxels)
    counted = valid.to(probabilities.dtype)
    return (probabilities * counted).sum(voxels) / counted.sum().clamp(min=1)


def marginal_kl(mean: torch.Tensor, prior: torch.Tensor) -> torch.Tensor:
    """KL(q|p) of Eq. 2, each class against the rest, with its constant: 0 where ``mean`` equals ``prior``.

    The closed form that :func:`prior_aware_loss` stands for; for tests and curves, not for stochastic gradients.

    Args:
        mean: p, (C,), between 0 and 1.
        prior: q, (C,).

    Returns:
        Scalar, at least 0; infinite if a class of the prior is predicted nowhere.
    """
    fits = xlogy(prior, mean) + xlogy(1 - prior, 1 - mean)
    return (_entropy_terms(prior) - fits).sum()


def prior_aware_loss(mean: torch.Tensor, prior: torch.Tensor, nu: torch.Tensor, mu: torch.Tensor) -> torch.Tensor:
    """J_C for given duals (the first form of Eq. 9, with the constant of Eq. 2).

    Never above :func:`marginal_kl`, and equal to it, as is the gradient, where the duals are optimal. Linear in
    ``mean``: means over batches of one size average to the mean over all of them.

    Args:
        mean: p, (C,), with the gradient.
        prior: q, (C,), between 0 and 1. A class with q = 0 has no term in nu, one with q = 1 none in mu.
        nu: dual of p, (C,), negative.
        mu: dual of 1 - p, (C,), negative.

    Returns:
        Scalar.
    """
    inside = prior * (mean * nu + 1 + torch.log(-nu))
    outside = (1 - prior) * ((1 - mean) * mu + 1 + torch.log(-mu))
    return (inside + outside + _entropy_terms(prior)).sum()


def _entropy_terms(prior: torch.Tensor) -> torch.Tensor:
    """The constant of Eq. 2, for each class."""
    return xlogy(prior, prior) + xlogy(1 - prior, 1 - prior)


class DualVariables:
    """nu and mu of Eq. 8 and 9 with their stochastic gradient ascent.

    They start at ``-1/q`` and ``-1/(1 - q)`` (section 3.4; Algorithm 1 drops the sign of mu) and stay at or below -1,
    as their optima do, hence negative.

    ``step="plain"`` is the letter: ``nu += rate * q * (p + 1/nu)``. Its curvature is ``q * p**2``: for an organ that
    fills a hundredth of the voxels, nu would need millions of steps to move at all, and at its start the whole of J_C
    has no gradient, for ``q * nu - (1 - q) * mu = 0``. ``step="scaled"`` ascends in the coordinates ``-1/nu`` and
    ``-1/mu`` with the gradient divided by its curvature, which leaves ``-1/nu += rate * (p + 1/nu)``: the same optimum,
    reached at the same pace by organs of all sizes.

    Args:
        prior: q, (C,).
        step: which ascent.
    """

    def __init__(self, prior: torch.Tensor, step: DualStep = "scaled") -> None:
        if step not in get_args(DualStep):
            raise ValueError(f"The step of the duals must be one of {', '.join(get_args(DualStep))}, got {step!r}.")
        self.step = step
        self.prior = full_precision(prior)
        self.nu = _dual(self.prior)
        self.mu = _dual(1 - self.prior)

    @torch.no_grad()
    def ascend(self, mean: torch.Tensor, rate: float) -> None:
        """One step up Eq. 9.

        Args:
            mean: p of this batch, (C,); entries that are not finite leave their duals as they are.
            rate: learning rate, between 0 and 1.
        """
        mean = mean.to(self.prior)
        if self.step == "scaled":
            nu = _dual(-1 / self.nu + rate * (mean + 1 / self.nu))
            mu = _dual(-1 / self.mu + rate * (1 - mean + 1 / self.mu))
        else:
            lowest = -1 / SMALLEST_PROPORTION
            nu = (self.nu + rate * self.prior * (mean + 1 / self.nu)).clamp(lowest, -1)
            mu = (self.mu + rate * (1 - self.prior) * (1 - mean + 1 / self.mu)).clamp(lowest, -1)
        # A step that overflowed in half precision is skipped for the network, and must not stay in the duals; nor does
        # a batch in which there is nothing to take the mean of.
        finite = torch.isfinite(mean)
        self.nu, self.mu = torch.where(finite, nu, self.nu), torch.where(finite, mu, self.mu)

    def loss(self, mean: torch.Tensor) -> torch.Tensor:
        """:func:`prior_aware_loss` of a batch with the duals as they are."""
        return prior_aware_loss(mean, self.prior, self.nu, self.mu)

    def state_dict(self) -> dict[str, Any]:
        """Prior and duals."""
        return {"prior": self.prior.cpu(), "nu": self.nu.cpu(), "mu": self.mu.cpu()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.prior, self.nu, self.mu = (state[name].to(self.prior) for name in ("prior", "nu", "mu"))


def _dual(proportion: torch.Tensor) -> torch.Tensor:
    return -1 / proportion.clamp(SMALLEST_PROPORTION, 1)
