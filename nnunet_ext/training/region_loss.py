"""The region loss that the terms of a paper are added to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_ext.labels import LabelLayout
from nnunet_ext.losses.partial import VoxelCrossEntropy
from nnunet_ext.training.base import ExtendedTrainer
from nnunet_ext.training.options import Options, option

RegionLoss = Literal["stock", "dice", "cross_entropy"]


def choose_region_loss(stock: Any, choice: RegionLoss, layout: LabelLayout) -> Any:
    """Keep nnU-Net's loss (Dice + CE) as it is, or one of its terms.

    Args:
        stock: what ``nnUNetTrainer._build_loss`` returned; may be changed.
        choice: "stock", "dice" (its Dice term alone) or "cross_entropy" (the mean over voxels).
        layout: of the labels.

    Returns:
        The loss, with the weights of the outputs that ``stock`` has.
    """
    wrapped = isinstance(stock, DeepSupervisionWrapper)
    if choice == "dice":
        (stock.loss if wrapped else stock).weight_ce = 0
    elif choice == "cross_entropy":
        cross_entropy = VoxelCrossEntropy(layout)
        if not wrapped:
            return cross_entropy
        stock.loss = cross_entropy
    return stock


@dataclass(frozen=True)
class RegionLossOptions(Options):
    """Options of :class:`RegionLossTrainer`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"basic": "region_loss", "supervision": "region_loss"}

    region_loss: RegionLoss = option(
        "stock",
        "What the terms of the paper are added to: nnU-Net's Dice + CE, its Dice alone, or cross-entropy alone.",
        "dice",
    )


class RegionLossTrainer(ExtendedTrainer):
    """A trainer whose region loss is nnU-Net's or one of its terms."""

    options_class: type[Options] = RegionLossOptions
    options: RegionLossOptions

    def _build_loss(self) -> nn.Module:
        """The chosen loss."""
        return choose_region_loss(super()._build_loss(), self.options.region_loss, self.label_layout)
