"""Variants of SD-Net for the benchmark of unlabelled images; each is the three-line subclass a user would write."""

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
