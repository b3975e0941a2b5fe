"""Variants of SD-Net for the benchmark of unlabelled images; each is the short subclass a user would write."""

import torch

from nnunet_ext.trainers.sdnet import nnUNetTrainerSDNet, nnUNetTrainerSDNetLabelled


class nnUNetTrainerSDNetFromStart(nnUNetTrainerSDNet):
    """Unlabelled samples from the first epoch on, as in the paper."""

    unlabelled_start = 0.0


class nnUNetTrainerSDNetLabelledRegionMean(nnUNetTrainerSDNetLabelled):
    """Eq. 6 as the mean over the difference region."""

    difference_mean = "region"


class nnUNetTrainerSDNetLabelledApart(nnUNetTrainerSDNetLabelled):
    """Two networks that never hear of each other: what averaging them gives without Eq. 6."""

    difference_weight = 0.0


class nnUNetTrainerSDNetLabelledLate(nnUNetTrainerSDNetLabelled):
    """Eq. 6 in the second half of the run alone."""

    @property
    def difference_weight(self) -> float:  # type: ignore[override]
        """1 from half of the run on."""
        return float(2 * self.current_epoch >= self.num_epochs)


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
