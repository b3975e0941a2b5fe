"""Variants of the multi-level loss for the accuracy benchmark; each is the three-line subclass a user would write."""

from nnunet_ext.trainers.multi_level import nnUNetTrainerMLL


class nnUNetTrainerMLLGentle(nnUNetTrainerMLL):
    """A tenth of the paper's weight for the boundary term, whose distances are in mm here."""

    boundary_scale = "mm"
    boundary_weight = 0.1


class nnUNetTrainerMLLDice(nnUNetTrainerMLL):
    """The paper's region term, Dice without cross-entropy, and its two others."""

    region_loss = "dice"


class nnUNetTrainerRegionDice(nnUNetTrainerMLL):
    """The paper's region term alone, what it compares with."""

    region_loss = "dice"
    boundary_weight = 0.0
    pixel_weight = 0.0


class nnUNetTrainerMLLMillimetres(nnUNetTrainerMLL):
    """The letter of Eq. 6: the boundary term is a mean of distances in mm."""

    boundary_scale = "mm"
