"""The terms of the multi-level structural loss, for any trainer whose loss they can be added to.

Source: Liu, Duan, Zeng, "Learning multi-level structural information for small organ segmentation", Signal Processing
2022, doi 10.1016/j.sigpro.2021.108418, Eq. 6 to 11.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from torch.optim import Optimizer

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.distance_maps import AddDistanceMaps
from nnunet_ext.losses.boundary import boundary_loss_of_logits
from nnunet_ext.losses.uncertain_points import IMPORTANCE, OVERSAMPLING, draw_points, uncertain_point_loss
from nnunet_ext.training.base import Samples
from nnunet_ext.training.deep_supervision import trained_outputs
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.region_loss import RegionLoss, RegionLossOptions, RegionLossTrainer
from nnunet_ext.training.schedules import RestartingPolyLR, first_epoch, ramp, step

BoundaryScale = Literal["organ", "mm"]
# Of the curves of the terms.
TITLES = {"boundary": "boundary loss", "pixel": "CE at uncertain points"}


@dataclass(frozen=True)
class StructuralOptions(RegionLossOptions):
    """Options of :class:`StructuralTrainer`."""

    region_loss: RegionLoss = option(
        "stock", "E_R: nnU-Net's Dice + CE, its Dice alone, or cross-entropy alone.", "dice (Eq. 5)"
    )
    boundary_weight: float = option(
        1.0, "What alpha rises to; 0 leaves the boundary term out.", "1 (4.1.1)", at_least=0
    )
    pixel_weight: float = option(1.0, "What beta rises to; 0 leaves the pixel term out.", "1 (4.1.1)", at_least=0)
    boundary_scale: BoundaryScale = option(
        "organ",
        "What E_B is: a Dice loss of each class, weighted by distances in the organ's own mean depth, cut off at one; "
        "or the mean of distances in mm, Eq. 6 and 7 to the letter, which outweighs E_R on a large field of view.",
        "mm (Eq. 6, 7)",
    )
    boundary_absent: bool = option(
        True,
        "Whether the boundary term counts what strays in patches without the organ, one mean depth away, if another "
        "patch of the batch on the device has it; not in mm.",
        "false (Eq. 7 has no such map)",
    )
    boundary_ramp: float = option(
        0.25, "Fraction of the run over which alpha rises from 0.", "5 of 20 epochs (4.1.1)", at_least=0, at_most=1
    )
    pixel_start: float = option(
        0.6, "Fraction of the run before the pixel term comes in.", "12 of 20 epochs (4.1.1)", at_least=0, at_most=1
    )
    restart_learning_rate: bool = option(
        False, "Whether the learning rate begins anew when the pixel term comes in.", "true (4.2)"
    )
    exact_margin: float = option(
        10.0, "How far around the bounding box of a class, in mm, the distance maps are exact.", at_least=0
    )
    points_per_voxel: float = option(1.0, "N, relative to the voxels of a grid four times coarser.", above=0)
    oversampling: int = option(OVERSAMPLING, "k: candidates for each point.", "3 (2.4)", at_least=1)
    importance: float = option(
        IMPORTANCE, "m: share of the points that are the least certain ones.", "0.75 (2.4)", at_least=0, at_most=1
    )


class StructuralTrainer(RegionLossTrainer):
    """alpha * E_B + beta * E_P (Eq. 11): :meth:`added_terms` of a trainer whose ``train_step`` asks for them.

    The boundary term acts on the finest output, the pixel term on the deep-supervision output four times coarser, or
    the coarsest that the region loss trains (nnU-Net gives the last of several no weight): where nothing is learned, no
    point is more uncertain than another.
    """

    options_class: type[Options] = StructuralOptions
    options: StructuralOptions
    # The transform that adds them to the targets.
    distance_maps: type[AddDistanceMaps] = AddDistanceMaps

    _point_seed: int | None = None
    _points: tuple[int, torch.Generator] | None = None
    # Of the batch that is trained on: its distance maps, and the terms that were computed of it.
    _distance: torch.Tensor | None = None
    _computed: dict[str, list[torch.Tensor]]

    def configure(self) -> None:
        """No terms so far."""
        super().configure()
        self._computed = {}

    @property
    def boundary_factor(self) -> float:
        """Alpha in this epoch."""
        return self.options.boundary_weight * ramp(self.current_epoch, self.num_epochs, self.options.boundary_ramp)

    @property
    def pixel_factor(self) -> float:
        """Beta in this epoch."""
        return self.options.pixel_weight * step(self.current_epoch, self.num_epochs, self.options.pixel_start)

    # ---- nnU-Net's hooks ----

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """The stock optimiser and schedule, restarted where asked for."""
        optimizer, scheduler = super().configure_optimizers()
        restart = first_epoch(self.num_epochs, self.options.pixel_start)
        if self.options.restart_learning_rate and self.options.pixel_weight and restart < self.num_epochs:
            scheduler = RestartingPolyLR(optimizer, self.initial_lr, self.num_epochs, restart)
        return optimizer, scheduler

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """The stock augmentation, and the distance maps of its outcome."""
        stock = super().get_training_transforms(*args, **kwargs)
        if not self.options.boundary_weight or not self.augments_targets:
            return stock
        manager = self.label_manager
        labels = None if manager.has_regions else manager.foreground_labels
        spacing = self.configuration_manager.spacing
        relative = self.options.boundary_scale == "organ"
        absent = relative and self.options.boundary_absent
        maps = self.distance_maps(spacing, labels, manager.ignore_label, self.options.exact_margin, relative, absent)
        return ComposeTransforms([stock, maps])

    def simulated_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """With distance maps."""
        batch = super().simulated_batch(batch)
        if self.options.boundary_weight:
            targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
            foreground = self.label_manager.num_segmentation_heads - (not self.label_manager.has_regions)
            maps = torch.zeros((len(batch["data"]), foreground, *batch["data"].shape[2:]), dtype=torch.float16)
            batch["target"] = [*targets, maps]
        return batch

    def to_device(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """As ever, without the distance maps: :meth:`added_terms` takes them from here."""
        self._distance, self._computed = None, {}
        data, target = super().to_device(batch)
        if isinstance(target, list) and target[-1].is_floating_point():
            *target, self._distance = target
            target = target if self.enable_deep_supervision else target[0]
        return data, target

    def step_output(self, loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> dict[str, Any]:
        """With the terms of this step; of several networks their mean."""
        means = {name: torch.stack(values).mean() for name, values in self._computed.items()}
        self._distance, self._computed = None, {}
        return super().step_output(loss, terms | means)

    # ---- the terms ----

    def added_terms(self, outputs: Any, target: Any, samples: Samples = slice(None)) -> torch.Tensor:
        """Alpha * E_B + beta * E_P of some samples of the batch that :meth:`to_device` was called with.

        Raises:
            UserError: the targets came without distance maps.
            ValueError: the outputs are those of other samples.
        """
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        finest_target = target[0] if isinstance(target, (list, tuple)) else target
        total = torch.zeros((), device=self.device)
        if self.options.boundary_weight:
            distance = self.distance_of(samples)
            if len(distance) != len(outputs[0]):  # one map would do for all outputs, or all maps for one
                raise ValueError(f"There are distance maps of {len(distance)} samples, but {len(outputs[0])} outputs.")
            boundary = self._boundary(outputs[0], distance)
            total = total + self.boundary_factor * boundary
            self._computed.setdefault("boundary", []).append(boundary.detach())
        if self.options.pixel_weight:
            pixel = self._pixel(outputs, finest_target) if self.pixel_factor else torch.zeros_like(total)
            total = total + self.pixel_factor * pixel
            self._computed.setdefault("pixel", []).append(pixel.detach())
        return total

    def distance_of(self, samples: Samples = slice(None)) -> torch.Tensor:
        """Distance maps (N, classes, *spatial) of some samples of the batch.

        Raises:
            UserError: there are none.
        """
        if self._distance is None:
            raise UserError(
                f"The targets hold no distance maps: {type(self).__name__} must extend get_training_transforms, "
                "not replace it (or set boundary_weight to 0)."
            )
        return self._distance[samples]

    def _boundary(self, logits: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
        """Eq. 6 of the foreground."""
        relative = self.options.boundary_scale == "organ"
        return boundary_loss_of_logits(logits, distance, self.label_layout, relative)

    def _pixel(self, outputs: Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Eq. 10 on one of the outputs, see the class."""
        logits = outputs[max(output for output in trained_outputs(self.loss) if output <= 2)]
        dimensions = logits.ndim - 2
        number = max(1, round(self.options.points_per_voxel * math.prod(target.shape[2:]) / 4**dimensions))
        uncertain = round(self.options.importance * number)
        candidates, others = (
            draw_points(logits.shape[0], drawn, dimensions, logits.device, self._point_generator())
            for drawn in (self.options.oversampling * number, number - uncertain)
        )
        return uncertain_point_loss(logits, target, candidates, others, uncertain, self.label_layout)

    def _point_generator(self) -> torch.Generator:
        """Random numbers of the points of this epoch, on this rank.

        They are drawn apart, so that augmentation draws the same as in a stock run of the same seed, and anew for every
        epoch, so that a resumed run goes on with those it would have had, on every rank and device.
        """
        if self._points is None or self._points[0] != self.current_epoch:
            if self._point_seed is None:
                self._point_seed = torch.initial_seed() % 2**63
            seed = np.random.SeedSequence([self._point_seed, self.current_epoch, self.local_rank])
            generator = torch.Generator().manual_seed(int(seed.generate_state(1)[0]))
            self._points = self.current_epoch, generator
        return self._points[1]

    # ---- checkpoints ----

    def extension_state(self) -> dict[str, Any]:
        """With the seed of the points."""
        self._point_generator()
        return {**super().extension_state(), "point_seed": self._point_seed}

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """With the seed of the points."""
        super().load_extension_state(state)
        self._point_seed, self._points = state.get("point_seed"), None
