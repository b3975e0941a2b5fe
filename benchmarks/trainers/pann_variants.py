"""Variants of PaNN for the benchmark of partial labels; each is the three-line subclass a user would write."""

from nnunet_ext.trainers.pann import nnUNetTrainerPaNN


class nnUNetTrainerPaNNHalf(nnUNetTrainerPaNN):
    """Half of the samples partially labelled in stage 2, in place of the paper's quarter."""

    partial_share = 0.5
