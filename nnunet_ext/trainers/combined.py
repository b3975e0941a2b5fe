"""Methods together: the terms of the multi-level structural loss in trainers of other papers.

Sources: Liu et al. 2022 (the terms), and that of the trainer they are added to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from nnunet_ext.trainers.pann import PaNNOptions, nnUNetTrainerPaNN
from nnunet_ext.trainers.refined_gan import RefinedGANOptions, nnUNetTrainerRefinedGAN
from nnunet_ext.trainers.sdnet import SDNetOptions, nnUNetTrainerSDNet
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.region_loss import RegionLoss
from nnunet_ext.training.structural import TITLES, StructuralOptions, StructuralTrainer


@dataclass(frozen=True)
class RefinedGANMLLOptions(StructuralOptions, RefinedGANOptions):
    """Options of :class:`nnUNetTrainerRefinedGANMLL`."""


class nnUNetTrainerRefinedGANMLL(StructuralTrainer, nnUNetTrainerRefinedGAN):
    """Refined constraints by discriminators, and the boundary and pixel terms for the network."""

    options_class: type[Options] = RefinedGANMLLOptions
    options: RefinedGANMLLOptions
    curve_titles: Mapping[str, str] = {**nnUNetTrainerRefinedGAN.curve_titles, **TITLES}


@dataclass(frozen=True)
class SDNetMLLOptions(StructuralOptions, SDNetOptions):
    """Options of :class:`nnUNetTrainerSDNetMLL`."""


class nnUNetTrainerSDNetMLL(StructuralTrainer, nnUNetTrainerSDNet):
    """Two networks that teach each other, each with the boundary and pixel terms on the labelled samples."""

    options_class: type[Options] = SDNetMLLOptions
    options: SDNetMLLOptions
    curve_titles: Mapping[str, str] = {**nnUNetTrainerSDNet.curve_titles, **TITLES}


class nnUNetTrainerSDNetLabelledMLL(nnUNetTrainerSDNetMLL):
    """The same without unlabelled images, on whole labelled batches."""

    unlabelled_weight = 0.0


@dataclass(frozen=True)
class PaNNMLLOptions(StructuralOptions, PaNNOptions):
    """Options of :class:`nnUNetTrainerPaNNMLL`."""

    region_loss: RegionLoss = option(
        "stock", "J_L and J_P: nnU-Net's Dice + CE, its Dice alone, or cross-entropy alone.", "cross-entropy, or dice"
    )
    restart_learning_rate: bool = option(False, "Whether the decay begins anew in stage 2.", "true (Zhou et al., 4.1)")


class nnUNetTrainerPaNNMLL(StructuralTrainer, nnUNetTrainerPaNN):
    """Partial labels and a prior, with the boundary and pixel terms on the fully labelled samples."""

    options_class: type[Options] = PaNNMLLOptions
    options: PaNNMLLOptions
    curve_titles: Mapping[str, str] = {**nnUNetTrainerPaNN.curve_titles, **TITLES}

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """The optimiser and the schedule of PaNN: both papers restart it, each at a time of its own."""
        return nnUNetTrainerPaNN.configure_optimizers(self)
