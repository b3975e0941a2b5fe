"""Variants of SD-Net for the benchmark of unlabelled images; each is the short subclass a user would write."""

import torch

from nnunet_ext.trainers.sdnet import nnUNetTrainerSDNet, nnUNetTrainerSDNetLabelled


class nnUNetTrainerSDNetHalf(nnUNetTrainerSDNet):
    """Half of a batch is unlabelled and teaches nothing that counts: what smaller labelled batches cost."""

    unlabelled_weight = 1e-12


class nnUNetTrainerSDNetLabelledRegionMean(nnUNetTrainerSDNetLabelled):
    """Eq. 6 as the mean over the difference region."""

    difference_mean = "region"


class nnUNetTrainerSDNetStronger(nnUNetTrainerSDNet):
    """Fifty times the unlabelled term, rising over the first 40 % of the run."""

    unlabelled_weight = 50.0
    unlabelled_ramp = 0.4


class nnUNetTrainerSDNetLate(nnUNetTrainerSDNet):
    """Whole batches of labelled samples in the first half of the run."""

    unlabelled_start = 0.5


class nnUNetTrainerSDNetLateDiceCE(nnUNetTrainerSDNetLate):
    """The same, and Dice + CE of nnU-Net in place of the squared error; for classes, not regions."""

    def lesson(self, student: torch.Tensor, pseudo_label: torch.Tensor) -> torch.Tensor:
        """Loss of the logits of a network that is taught."""
        target = pseudo_label.argmax(1, keepdim=True).float()
        loss = self.loss.loss if self.enable_deep_supervision else self.loss
        return loss(student, target)
