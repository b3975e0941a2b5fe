"""PaNN with proportions that are 10 % wrong: how far does the prior have to be right?

export nnUNet_extTrainer=experiments/open_data/trainers
"""

from __future__ import annotations

import torch

from nnunet_ext.trainers.pann import nnUNetTrainerPaNN

ERROR = 0.1


class nnUNetTrainerPaNNWrongPrior(nnUNetTrainerPaNN):
    """``nnUNetTrainerPaNN`` that takes every second organ for 10 % larger than it is, and the others for smaller."""

    def estimate_prior(self) -> torch.Tensor:
        """Proportions (C,) that sum to 1; background, the first one, has what the organs leave."""
        wrong = super().estimate_prior().clone()
        wrong[1::2] *= 1 + ERROR
        wrong[2::2] *= 1 - ERROR
        wrong[0] = 1 - wrong[1:].sum()
        return wrong
