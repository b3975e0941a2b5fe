"""A trainer of your own: a milder boundary term, and an option that did not exist.

Put the file into a folder and name that folder, then train by the name of the class:

    export nnUNet_extTrainer=PATH/TO/THE/FOLDER
    nnUNetv2_train 4 3d_fullres 0 -tr nnUNetTrainerMLLWarm
"""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.trainers.multi_level import nnUNetTrainerMLL
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.structural import StructuralOptions


@dataclass(frozen=True)
class WarmOptions(StructuralOptions):
    """Options of :class:`nnUNetTrainerMLLWarm`."""

    warm_epochs: int = option(10, "Epochs before the boundary term comes in.", at_least=0)


class nnUNetTrainerMLLWarm(nnUNetTrainerMLL):
    """The multi-level loss at half the boundary weight, after some epochs of nnU-Net's loss alone."""

    options_class: type[Options] = WarmOptions
    options: WarmOptions
    boundary_weight = 0.5

    @property
    def boundary_factor(self) -> float:
        """Weight of the boundary term in this epoch."""
        return super().boundary_factor if self.current_epoch >= self.options.warm_epochs else 0.0
