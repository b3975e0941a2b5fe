"""Variants of SD-Net for the benchmark of unlabelled images; each is the short subclass a user would write."""

import torch

from nnunet_ext.trainers.sdnet import nnUNetTrainerSDNet, nnUNetTrainerSDNetLabelled


class nnUNetTrainerSDNetFromStart(nnUNetTrainerSDNet):
    """Eq. 6 and unlabelled samples from the first epoch on, as in the paper."""

    difference_start = 0.0
    unlabelled_start = 0.0


class nnUNetTrainerSDNetLabelledRegionMean(nnUNetTrainerSDNetLabelled):
    """Eq. 6 from the first epoch on, as the mean over the difference region."""

    difference_start = 0.0
    difference_mean = "region"


class nnUNetTrainerSDNetLabelledApart(nnUNetTrainerSDNetLabelled):
    """Two networks that never hear of each other: what averaging them gives without Eq. 6."""

    difference_weight = 0.0


class nnUNetTrainerSDNetLabelledFromStart(nnUNetTrainerSDNetLabelled):
    """Eq. 6 from the first epoch on, as in the paper."""

    difference_start = 0.0


class nnUNetTrainerSDNetEarlyDifference(nnUNetTrainerSDNet):
    """Eq. 6 from the first epoch on, unlabelled samples in the second half."""

    difference_start = 0.0


class nnUNetTrainerSDNetStronger(nnUNetTrainerSDNetFromStart):
    """The same with fifty times the unlabelled term, rising over the first 40 % of the run."""

    unlabelled_weight = 50.0
    unlabelled_ramp = 0.4


class nnUNetTrainerSDNetDiceCE(nnUNetTrainerSDNet):
    """Dice + CE of nnU-Net for pseudo-labels in place of the squared error; for classes, not regions."""

    def lesson(self, student: torch.Tensor, pseudo_label: torch.Tensor) -> torch.Tensor:
        """Loss of the logits of a network that is taught."""
        target = pseudo_label.argmax(1, keepdim=True).float()
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        return loss(student, target)
