"""The region loss that the terms of a paper are added to."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_ext.core.errors import UserError
from nnunet_ext.training.base import ExtendedTrainer

RegionLoss = Literal["stock", "dice"]
Loss = TypeVar("Loss", bound=nn.Module)


def choose_region_loss(stock: Loss, choice: RegionLoss) -> Loss:
    """Keep nnU-Net's loss (Dice + CE) as it is, or only its Dice term; changes and returns ``stock``.

    Args:
        stock: what ``nnUNetTrainer._build_loss`` returned.
        choice: "stock" or "dice".

    Raises:
        UserError: another choice.
    """
    if choice not in get_args(RegionLoss):
        raise UserError(f"The region loss must be one of {', '.join(get_args(RegionLoss))}, got {choice!r}.")
    if choice == "dice":
        region_loss = stock.loss if isinstance(stock, DeepSupervisionWrapper) else stock
        region_loss.weight_ce = 0
    return stock


class BasicLossTrainer(ExtendedTrainer):
    """A trainer whose basic loss is nnU-Net's or its Dice term."""

    # "stock": nnU-Net's region loss (Dice + CE). "dice": its Dice loss alone.
    basic: RegionLoss = "stock"

    def _build_loss(self) -> nn.Module:
        """The chosen loss."""
        return choose_region_loss(super()._build_loss(), self.basic)
