"""Coarse to fine on slices: the multi-level structural network, and the multi-level loss on one branch.

Source: Liu, Duan, Zeng, "Learning multi-level structural information for small organ segmentation", Signal Processing
2022, doi 10.1016/j.sigpro.2021.108418, sections 2.2, 2.3, 3 and 4. Their loss on the network of the plans is in
``multi_level.py``.

A 3D patch is run slice by slice along its first axis, each slice with its two neighbours; a 2D one is repeated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn
from torch.optim import Optimizer

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.slice_distance_maps import AddSliceDistanceMaps
from nnunet_ext.losses.multi_level import STEEPNESS, pixel_loss, scaled_distance, signed_distance_loss
from nnunet_ext.networks.coarse_to_fine import MARGIN, ROUNDS, TOLERANCE, CoarseToFineNetwork, SliceNetwork
from nnunet_ext.networks.multi_level import (
    CHANNELS,
    RATES,
    AtrousNetwork,
    Fusion,
    Maps,
    MultiLevelNetwork,
    PixelModule,
    group_normalised,
)
from nnunet_ext.networks.resnet18 import FEATURES
from nnunet_ext.networks.slices import Windows, crop, patches_of, slices_of, unit_colours
from nnunet_ext.trainers.multi_level import nnUNetTrainerMLL
from nnunet_ext.training.imagenet_weights import RESNET18
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.schedules import HalvingLR, first_epoch
from nnunet_ext.training.structural import BoundaryScale, StructuralOptions
from nnunet_ext.training.teacher import bare

Normalisation = Literal["batch", "group"]
Optimiser = Literal["stock", "paper"]

# The networks' output is 4 times coarser than what they see: shorter sides leave them no detail.
_LEAST_SIDE = 64

# Terms of the loss by name, each with its weight.
Terms = dict[str, tuple[float, torch.Tensor]]


@dataclass(frozen=True)
class CoarseToFineOptions(StructuralOptions):
    """Options of :class:`nnUNetTrainerCoarseToFine`."""

    boundary_absent: bool = option(
        False,
        "Whether the boundary term counts what strays in slices without the organ, one mean depth away, if another "
        "slice of the batch on the device has it; not in mm.",
        "false (Eq. 7 has no such map)",
    )
    coarse_features: tuple[int, ...] = option(
        FEATURES, "Channels of the four blocks of the coarse backbone.", at_least=1
    )
    fine_features: tuple[int, ...] = option(FEATURES, "Channels of the four blocks of the fine backbone.", at_least=1)
    channels: int = option(CHANNELS, "Channels of each branch.", "256 (3.4)", at_least=1)
    rates: tuple[int, ...] = option(RATES, "Atrous rates of the ASPP modules: those of DeepLab-v3.", at_least=1)
    dropout: float = option(0.0, "Of the ASPP modules.", at_least=0, below=1)
    upsampling: int = option(
        0,
        f"Factor by which both networks enlarge their slices first; 0: 1, 2 or 4, until a patch has {_LEAST_SIDE} "
        "pixels on both sides.",
        "1",
        at_least=0,
    )
    normalisation: Normalisation = option(
        "batch", "As ImageNet's weights have it; group for a batch of one slice.", "not named"
    )
    margin: int = option(MARGIN, "K: around a box, in voxels.", "20 (2.2, 4.3.1)", at_least=0)
    multiple: int = option(16, "Of height and width of a box, where the slice has room for it.", at_least=1)
    shared_box: bool = option(True, "Whether the slices of a 3D patch share a box.", "false (2.2)")
    tolerance: float = option(
        TOLERANCE,
        "The iteration ends once two predictions in a row agree to this Dice (RDSC).",
        "0.99 (4.1.2)",
        at_least=0,
        at_most=1,
    )
    max_rounds: int = option(ROUNDS, "Most rounds of the iteration; 1 switches it off.", "10 (4.1.2)", at_least=0)
    slices_at_once: int = option(16, "Slices that go through a network together in inference.", at_least=1)
    coarse_weight: float = option(0.3, "Omega 1: of the coarse network.", "0.3 (4.1.1)", at_least=0)
    fine_weight: float = option(2 / 3, "Omega 2: of the fine network.", "2/3 (4.1.1)", at_least=0)
    joint_start: float = option(
        0.2, "Fraction of the run after which both networks are trained jointly.", at_least=0, at_most=1
    )
    predicted_start: float = option(
        0.4,
        "Fraction of the run after which the boxes are those of the coarse prediction.",
        "8 of 20 epochs (4.1.1, Fig. 5)",
        at_least=0,
        at_most=1,
    )
    optimiser: Optimiser = option(
        "stock", "nnU-Net's, or Adam at 1e-5 that is halved and begun anew with the pixel term.", "paper (4.3.1)"
    )
    halving_start: float = option(
        0.4, "Fraction of the run before the first halving.", "8 of 20 epochs (4.3.1)", at_least=0, at_most=1
    )
    halving_every: float = option(
        0.1, "Fraction of the run between two halvings.", "2 of 20 epochs (4.3.1)", above=0, at_most=1
    )


@dataclass(frozen=True)
class MLNOptions(CoarseToFineOptions):
    """Options of :class:`nnUNetTrainerMLN`; the phases are at the same epochs, of which there are 25."""

    boundary_scale: BoundaryScale = option(
        "organ",
        "Phi of Eq. 12: in the organ's own mean depth, cut off at one, and E_B of CoarseToFine for the prediction "
        "besides; or in mm, clipped at exact_margin, without the latter.",
        "not named; Eq. 12 alone",
    )
    boundary_absent: bool = option(
        False,
        "Whether E_B of the prediction counts what strays in slices without the organ; Eq. 12 always does.",
        "false (Eq. 7 has no such map)",
    )
    boundary_ramp: float = option(
        0.0, "Fraction of the run over which alpha rises from 0.", "0 (4.1.1)", at_least=0, at_most=1
    )
    pixel_start: float = option(
        0.48,
        "Fraction of the run before pixel branch and fusion come in.",
        "12 of 25 epochs (4.1.1)",
        at_least=0,
        at_most=1,
    )
    joint_start: float = option(
        0.16, "Fraction of the run after which both networks are trained jointly.", at_least=0, at_most=1
    )
    predicted_start: float = option(
        0.32, "Fraction of the run after which the boxes are those of the coarse prediction.", at_least=0, at_most=1
    )
    halving_start: float = option(0.32, "Fraction of the run before the first halving.", at_least=0, at_most=1)
    halving_every: float = option(0.08, "Fraction of the run between two halvings.", above=0, at_most=1)
    fusion_weight: float = option(1.0, "Gamma: what the fusion counts.", "1 (4.1.1)", at_least=0)
    steepness: float = option(STEEPNESS, "Of the sigmoid of Eq. 12, see signed_distance_loss.", above=0)
    attention_heads: int = option(8, "Of the self-attention among pixels.", at_least=1)
    pixels_per_point: int = option(16, "One uncertain pixel is chosen in so many.", at_least=1)
    max_points: int = option(1024, "Most points of the pixel branch in a slice.", at_least=1)
    pixel_module: PixelModule = option("attention", "What the pixel branch is.", "attention; mlp in Table 9")
    fusion: Fusion = option("guidance", "How the levels are fused.", "guidance; convolutions in Table 9")
    residual_fusion: bool = option(
        True, "Whether the fusion corrects the region branch, from which it starts, or replaces it.", "false (3.4)"
    )


class nnUNetTrainerCoarseToFine(nnUNetTrainerMLL):
    """A coarse and a fine network with the multi-level loss (Eq. 9 and 11): the paper's MLL model.

    Both are ResNet-18 with an ASPP module, of their own: the network of the plans is not used. Deep supervision has no
    place. Inference iterates within ``forward``, in every window of nnU-Net's predictor.

    Three phases (section 4.1.1): boxes of the truth and no gradient from the fine to the coarse network; boxes of the
    truth and joint training; boxes of the coarse prediction.
    """

    options_class: type[Options] = CoarseToFineOptions
    options: CoarseToFineOptions
    curve_titles: Mapping[str, str] = {
        "coarse": "coarse network: Dice + CE",
        "region": "region: Dice + CE",
        "fusion": "fusion: Dice + CE",
        "boundary": "boundary loss",
        "outline": "boundary loss of the prediction",
        "pixel": "CE at uncertain points",
    }
    distance_maps = AddSliceDistanceMaps

    _starts_from_imagenet: bool = True

    def configure(self) -> None:
        """One output, without deep supervision."""
        super().configure()
        self.enable_deep_supervision = False

    # ---- the network ----

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Both networks in one, as in training so in inference, with random weights."""
        options = cls.options_in(plans_manager)
        if not options.upsampling:
            options = replace(options, upsampling=upsampling_of(configuration_manager.patch_size))
        network = cls.build_slice_network(num_input_channels, num_output_channels, options)
        return network if options.normalisation == "batch" else group_normalised(network)

    @classmethod
    def build_slice_network(cls, channels: int, heads: int, options: Any) -> SliceNetwork:
        """The network for images of so many channels; a saliency map for each head multiplies all of them."""
        coarse = _atrous_network(unit_colours(channels), heads, 2, options.coarse_features, options)
        return CoarseToFineNetwork(
            coarse,
            cls.build_fine_network(unit_colours(channels, heads + 1), heads, options),
            heads,
            options.margin,
            options.multiple,
            options.shared_box,
            options.tolerance,
            options.max_rounds,
            options.slices_at_once,
        )

    @classmethod
    def build_fine_network(cls, colours: Sequence[int], heads: int, options: Any) -> nn.Module:
        """The fine network, see :class:`AtrousNetwork`."""
        return _atrous_network(colours, heads, 1, options.fine_features, options)

    @property
    def slice_network(self) -> SliceNetwork:
        """The network without what ``torch.compile`` and ``DistributedDataParallel`` wrap around it."""
        network = bare(self.network)
        assert isinstance(network, SliceNetwork)
        return network

    # ---- nnU-Net's hooks ----

    def check_supported(self) -> None:
        """Options that exist; batches that can be normalised; readable ImageNet weights, where there are any."""
        super().check_supported()
        name = type(self).__name__
        if self.enable_deep_supervision:
            raise UserError(f"{name} has one output: leave enable_deep_supervision off.")
        patch, batch_size = self.configuration_manager.patch_size, self.configuration_manager.batch_size
        if self.options.normalisation == "batch" and batch_size * math.prod(patch[:-2]) < 2:
            raise UserError(
                f"{name} normalises over a batch, but the batch of configuration {self.configuration_name} is one "
                "slice: set batch_size to 2 or more in the plans, or normalisation to group."
            )
        if self._starts_from_imagenet:
            RESNET18.look_for()

    def initialize(self) -> None:
        """Build the networks and give the backbones the ImageNet weights, where there are any."""
        super().initialize()
        network = self.slice_network
        network.set_regions(self.label_manager.has_regions)
        if self._starts_from_imagenet:
            self._load_imagenet(network)

    def _load_imagenet(self, network: SliceNetwork) -> None:
        file = RESNET18.look_for()
        if file is None:
            # In the paper all backbones start from ImageNet, but nothing else depends on it.
            self.print_to_log_file(f"All weights start at random; for those of ImageNet: {RESNET18.advice()}.")
            return
        RESNET18.load(file, network.backbones())
        self.print_to_log_file(f"The backbones start from the ImageNet weights of {file}.")

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint, which needs no ImageNet weights."""
        self._starts_from_imagenet = False
        super().load_checkpoint(filename_or_checkpoint)

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """The stock optimiser and schedule, or the paper's."""
        if self.options.optimiser == "stock":
            return super().configure_optimizers()
        rate = 1e-5
        optimizer = torch.optim.Adam(self.network.parameters(), rate)
        begin, every = (
            fraction * self.num_epochs for fraction in (self.options.halving_start, self.options.halving_every)
        )
        restart = first_epoch(self.num_epochs, self.options.pixel_start)
        return optimizer, HalvingLR(optimizer, rate, self.num_epochs, begin, every, restart)

    def on_train_start(self) -> None:
        """Start as stock nnU-Net does; ``-pretrained_weights`` may have brought what the heads of another run are."""
        super().on_train_start()
        self.slice_network.set_regions(self.label_manager.has_regions)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to switch: there is one output."""

    # ---- training ----

    @property
    def apart(self) -> bool:
        """Whether the coarse and the fine network are trained apart in this epoch: phase 1."""
        return self.current_epoch < first_epoch(self.num_epochs, self.options.joint_start)

    @property
    def boxes_are_predicted(self) -> bool:
        """Whether the boxes are those of the coarse prediction in this epoch: phase 3."""
        return self.current_epoch >= first_epoch(self.num_epochs, self.options.predicted_start)

    def train_step(self, batch: dict) -> dict:
        """One step down Eq. 11, or Eq. 13."""
        data, target = self.to_device(batch)
        distance = self.distance_of() if self.options.boundary_weight else None
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            maps = self.network(data, **self.network_arguments(data, batch["target"]))
            windows = maps.get("windows")
            terms: Terms = {}
            if windows is not None:
                terms["coarse"] = self.options.coarse_weight, self.loss(maps["coarse"], target)
                target = _in_windows(target, windows)
                distance = None if distance is None else _in_windows(distance, windows)
                self._distance = None  # the windows are copies: the whole maps would stay through the backward pass
            terms |= self.region_terms(maps, target)
        terms |= self.detail_terms(maps, slices_of(target), None if distance is None else slices_of(distance))
        loss = sum((weight * value for weight, value in terms.values()), torch.zeros((), device=self.device))
        if self.is_ddp:
            # Branches that a phase leaves out: DistributedDataParallel waits for a gradient of every weight.
            loss = loss + 0 * torch.stack([parameter.sum() for parameter in self.network.parameters()]).sum()
        self.network_step(loss)
        return self.step_output(loss, {name: value for name, (_, value) in terms.items()})

    def network_arguments(self, data: torch.Tensor, target: Any) -> dict[str, Any]:
        """What the network is told in training beside the images; ``target`` as the loader gives it, on the host."""
        if isinstance(target, list):  # the distance maps follow
            target = target[0]
        # Found on the host: there is nothing to wait for.
        truth = None if self.boxes_are_predicted else self._foreground(target)
        return {"truth": truth, "apart": self.apart}

    def region_terms(self, maps: Maps, target: torch.Tensor) -> Terms:
        """E_R of the fine network, on patches."""
        return {"region": (self.options.fine_weight, self.loss(maps["final"], target))}

    def detail_terms(self, maps: Maps, target: torch.Tensor, distance: torch.Tensor | None) -> Terms:
        """E_B and E_P of the fine network, on slices: target (N, 1, H, W) and distance (N, classes, H, W)."""
        terms: Terms = {}
        if distance is not None:
            value = self._boundary(slices_of(maps["final"]), distance)
            terms["boundary"] = self.options.fine_weight * self.boundary_factor, value
        if self.pixel_factor:
            terms["pixel"] = (
                self.options.fine_weight * self.pixel_factor,
                self._pixel([slices_of(maps["logits"])], target),
            )
        return terms

    def _foreground(self, target: torch.Tensor) -> torch.Tensor:
        """Voxels of any class, (B, 1, *spatial) of bool."""
        return (self.label_layout.values(target) != 0).any(1, keepdim=True)

    # ---- how often inference iterates ----

    def on_validation_epoch_start(self) -> None:
        """Count the rounds of this epoch."""
        super().on_validation_epoch_start()
        self._count_rounds()

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log what stock nnU-Net does, and the number of rounds."""
        super().on_validation_epoch_end(val_outputs)
        self._log_rounds()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Predict and score the validation cases, and log the number of rounds."""
        self._count_rounds()
        super().perform_actual_validation(save_probabilities)
        self._log_rounds()

    def _count_rounds(self) -> None:
        network = self.slice_network
        if isinstance(network, CoarseToFineNetwork):
            network.rounds_used.clear()

    def _log_rounds(self) -> None:
        network = self.slice_network
        if not isinstance(network, CoarseToFineNetwork) or not network.rounds_used:
            return
        used = network.rounds_used
        mean = sum(rounds for rounds, _ in used) / len(used)
        converged = sum(agreement >= network.tolerance for _, agreement in used)
        self.print_to_log_file(f"rounds: {mean:.2f} on average, {converged} of {len(used)} patches converged")


class nnUNetTrainerMLN(nnUNetTrainerCoarseToFine):
    """The multi-level structural network as the fine network, with its loss (Eq. 13).

    The pixel branch and the fusion join after 12 of 25 epochs; until then the region branch is the prediction.
    """

    options_class: type[Options] = MLNOptions
    options: MLNOptions

    @classmethod
    def build_fine_network(cls, colours: Sequence[int], heads: int, options: Any) -> nn.Module:
        """The fine network, see :class:`MultiLevelNetwork`."""
        return MultiLevelNetwork(
            colours,
            heads,
            options.fine_features,
            options.channels,
            options.rates,
            options.dropout,
            options.attention_heads,
            options.pixels_per_point,
            options.max_points,
            options.pixel_module,
            options.fusion,
            options.residual_fusion,
            options.upsampling,
        )

    def check_supported(self) -> None:
        """Options of the pixel branch that fit."""
        super().check_supported()
        channels, heads = self.options.channels, self.options.attention_heads
        if channels % heads:
            raise UserError(
                f"{self.base_name}: channels must be a multiple of attention_heads ({heads}), got {channels}."
            )

    @property
    def is_guided(self) -> bool:
        """Whether the pixel branch and the fusion are in use in this epoch."""
        return bool(self.options.fusion_weight) and self.current_epoch >= first_epoch(
            self.num_epochs, self.options.pixel_start
        )

    def simulated_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """With the pixel branch on, as it is in the last epochs."""
        self.slice_network.set_guided(self.is_guided)
        return super().simulated_batch(batch)

    def on_train_epoch_start(self) -> None:
        """Let the pixel branch and the fusion join when it is time."""
        super().on_train_epoch_start()
        self.slice_network.set_guided(self.is_guided)

    def network_arguments(self, data: torch.Tensor, target: Any) -> dict[str, Any]:
        """With the random numbers by which some of the pixels are chosen."""
        noise = None
        if self.is_guided:
            shape = (data.shape[0], 1, *data.shape[2:])
            noise = torch.rand(shape, generator=self._point_generator()).to(self.device, non_blocking=True)
        return {**super().network_arguments(data, target), "noise": noise}

    def region_terms(self, maps: Maps, target: torch.Tensor) -> Terms:
        """E_R of the region branch and of the fusion."""
        terms = {"region": (self.options.fine_weight, self.loss(maps["region"], target))}
        if self.is_guided:
            terms["fusion"] = self.options.fine_weight * self.options.fusion_weight, self.loss(maps["final"], target)
        return terms

    def detail_terms(self, maps: Maps, target: torch.Tensor, distance: torch.Tensor | None) -> Terms:
        """Eq. 12 of the boundary branch, E_P of the pixel branch; where asked for, E_B of the prediction."""
        terms: Terms = {}
        if distance is not None:
            foreground = self.label_layout.foreground  # the background has no distance
            inside, valid = self.label_layout.maps(target, self.label_manager.num_segmentation_heads)
            relative = self.options.boundary_scale == "organ"
            phi = scaled_distance(distance, inside[:, foreground], 1.0 if relative else self.options.exact_margin)
            predicted = slices_of(maps["boundary"])[:, foreground]
            weight = self.options.fine_weight * self.boundary_factor
            terms["boundary"] = weight, signed_distance_loss(predicted, phi, valid, self.options.steepness)
            if relative:
                terms["outline"] = weight, self._boundary(slices_of(maps["final"]), distance)
        if self.is_guided and self.options.pixel_weight:
            value = pixel_loss(maps["pixel"], maps["points"], target, self.label_layout)
            terms["pixel"] = self.options.fine_weight * self.options.pixel_weight, value
        return terms


class nnUNetTrainerMLNNoPixel(nnUNetTrainerMLN):
    """Four layers shared by all points in place of self-attention: "w/o Pixel module" of Table 9."""

    pixel_module = "mlp"


class nnUNetTrainerMLNNoGuidance(nnUNetTrainerMLN):
    """Four 3x3 convolutions in place of the saliency guidance: "w/o MLSG module" of Table 9."""

    fusion = "convolutions"


class nnUNetTrainerMLNNoCoarse(nnUNetTrainerMLN):
    """The structural network on whole slices, without a coarse network, box or iteration."""

    fine_weight = 1.0

    @classmethod
    def build_slice_network(cls, channels: int, heads: int, options: Any) -> SliceNetwork:
        """The fine network alone."""
        return SliceNetwork(cls.build_fine_network(unit_colours(channels), heads, options), options.slices_at_once)

    def network_arguments(self, data: torch.Tensor, target: Any) -> dict[str, Any]:
        """Nothing of boxes."""
        return {"noise": super().network_arguments(data, target)["noise"]}


def _atrous_network(
    colours: Sequence[int], heads: int, stem_stride: int, features: Sequence[int], options: Any
) -> AtrousNetwork:
    channels, rates, dropout = options.channels, options.rates, options.dropout
    return AtrousNetwork(colours, heads, stem_stride, features, channels, rates, dropout, options.upsampling)


def upsampling_of(patch_size: Sequence[int]) -> int:
    """Factor by which slices of patches of this size are enlarged: 1, 2 or 4."""
    shorter = min(patch_size[-2:])
    return next((factor for factor in (1, 2) if factor * shorter >= _LEAST_SIDE), 4)


def _in_windows(maps: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Maps (B, channels, *spatial) in the windows (N, 4) of their slices."""
    return patches_of(crop(slices_of(maps), windows), maps.shape[0], maps.ndim == 5)
