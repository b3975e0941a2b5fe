"""Adversarial losses on discriminator logits.

Sources: Lian et al. 2025 (doi 10.1038/s41598-025-86087-8), Eq. 2 to 6; Conze et al. 2021 (doi
10.1016/j.artmed.2021.102109), Eq. 1 and 2; Goodfellow et al. 2014.
With D = sigmoid(logit), log D = -softplus(-logit) and log(1 - D) = -softplus(logit): finite for any finite logit,
where the literal logarithm is not. All functions compute in float32 (float64 stays), also under autocast.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.functional import softplus

from nnunet_ext.precision import full_precision

GeneratorForm = Literal["saturating", "non_saturating"]


def discriminator_loss(real_logits: torch.Tensor, fake_logits: torch.Tensor) -> torch.Tensor:
    """Loss of the discriminator: ``- E log D(real) - E log(1 - D(fake))`` (Lian et al. 2025, Eq. 3, 5, 6).

    Args:
        real_logits: logits of D on ground truth, any shape; the expectation is the mean over all entries.
        fake_logits: logits of D on predictions, any shape.

    Returns:
        Scalar, at least 0.
    """
    return softplus(-full_precision(real_logits)).mean() + softplus(full_precision(fake_logits)).mean()


def generator_loss(fake_logits: torch.Tensor, form: GeneratorForm = "saturating") -> torch.Tensor:
    """Adversarial term of the generator (Lian et al. 2025, Eq. 2 and 4).

    Args:
        fake_logits: logits of D on predictions, any shape; the expectation is the mean over all entries.
        form: ``"saturating"``, the letter of the paper: ``E log(1 - D(fake))``, at most 0, whose gradient vanishes
            when D is sure of itself; ``"non_saturating"``: ``- E log D(fake)``, at least 0, the same fixed point
            with a gradient that does not vanish (Goodfellow et al. 2014, section 3).

    Returns:
        Scalar.

    Raises:
        ValueError: ``form`` is neither of the two.
    """
    logits = full_precision(fake_logits)
    if form == "saturating":
        return -softplus(logits).mean()
    if form == "non_saturating":
        return softplus(-logits).mean()
    raise ValueError(f"form must be 'saturating' or 'non_saturating', got {form!r}.")


class GeneratorLoss(nn.Module):
    """:func:`generator_loss` as a module."""

    def __init__(self, form: GeneratorForm = "saturating") -> None:
        super().__init__()
        generator_loss(torch.zeros(1), form)  # an unknown form stops here, not in the first training step
        self.form: GeneratorForm = form

    def forward(self, fake_logits: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss of ``fake_logits`` (any shape)."""
        return generator_loss(fake_logits, self.form)
