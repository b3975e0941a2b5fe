"""Cascaded networks with auto-context, with and without a conditional discriminator, with and without VGG-19.

Source: Conze et al., "Abdominal multi-organ segmentation with cascaded convolutional and adversarial deep networks",
Artificial Intelligence in Medicine 2021, doi 10.1016/j.artmed.2021.102109.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from nnunet_ext.core.errors import UserError
from nnunet_ext.losses.adversarial import GeneratorForm
from nnunet_ext.networks.cascade import CascadedNetwork
from nnunet_ext.networks.patch_discriminator import PatchDiscriminator
from nnunet_ext.networks.vgg19_unet import VGG19UNet, colours_of
from nnunet_ext.training.adversarial import AdversarialOptions, AdversarialTrainer
from nnunet_ext.training.imagenet_weights import VGG19
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.region_loss import RegionLossOptions, RegionLossTrainer
from nnunet_ext.training.teacher import bare


@dataclass(frozen=True)
class CascadedOptions(RegionLossOptions):
    """Options of :class:`nnUNetTrainerCascaded`."""

    residual: bool = option(
        True,
        "Whether the second network corrects the logits of the first one, or replaces them.",
        "false (3.3)",
    )


class nnUNetTrainerCascaded(RegionLossTrainer):
    """The network of the plans twice: the second one sees the image and the output of the first (section 3.3).

    Both are trained end to end, with nnU-Net's loss on the output of the second, deep supervision included, which
    corrects the output of the first (``residual``), or replaces it as in the paper. The second starts as a network of
    the image alone, and learns to look at the maps: those of an untrained network are noise, which it would first have
    to learn to ignore.
    """

    options_class: type[Options] = CascadedOptions
    options: CascadedOptions

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Both networks in one, as in training so in inference."""
        manager = (plans_manager, configuration_manager)
        first = nnUNetTrainer.build_network_architecture(*manager, num_input_channels, num_output_channels, False)
        second = nnUNetTrainer.build_network_architecture(
            *manager, num_input_channels + num_output_channels, num_output_channels, enable_deep_supervision
        )
        _drop_unused_heads(first)
        _start_without_maps(second, num_input_channels, num_output_channels)
        return CascadedNetwork(first, second, cls.options_in(plans_manager).residual)


@dataclass(frozen=True)
class CascadedGANOptions(AdversarialOptions, CascadedOptions):
    """Options of :class:`nnUNetTrainerCascadedGAN`."""

    adversarial_weights: tuple[float, ...] = option(
        (1 / 150,),
        "Weight of the adversarial term; the region loss has 1, over all outputs.",
        "1 beside 150 for the Dice loss (Eq. 1)",
        at_least=0,
    )
    generator_form: GeneratorForm = option("non_saturating", "log(1 - D) or -log D.", "non_saturating (Eq. 1)")
    conditional: bool = option(True, "Whether the discriminator sees the image beside the maps.", "true (Eq. 2)")
    # Strides as in pix2pix (Isola et al. 2017), channels a quarter of those, so that a 3D step costs less.
    discriminator_features: tuple[int, ...] = option(
        (16, 32, 64, 128), "Channels of all convolutions of the discriminator but the last one.", above=0
    )
    discriminator_strides: tuple[int, ...] = option(
        (2, 2, 2, 1, 1),
        "Strides of the convolutions of the discriminator.",
        "not printed; five convolutions (3.4)",
        above=0,
    )


@dataclass(frozen=True)
class CascadedVGG19GANOptions(CascadedGANOptions):
    """Options of :class:`nnUNetTrainerCascadedVGG19GAN`."""

    discriminator_features: tuple[int, ...] = option(
        (64, 128, 256, 512), "Channels of all convolutions of the discriminator but the last one.", above=0
    )
    discriminator_lr: float = option(1e-5, "Learning rate of Adam for the discriminator.", "1e-5 (4.1)", above=0)
    discriminator_betas: tuple[float, float] = option(
        (0.9, 0.999), "Betas of Adam for the discriminator.", at_least=0, below=1
    )


class nnUNetTrainerCascadedGAN(AdversarialTrainer, nnUNetTrainerCascaded):
    """The cascade against a discriminator that sees image and segmentation together (Eq. 1 and 2, Fig. 3)."""

    options_class: type[Options] = CascadedGANOptions
    options: CascadedGANOptions

    def make_discriminator(self, in_channels: int, spacing: Sequence[float]) -> nn.Module:
        """Five convolutions of kernel 4 with leaky ReLU and batch normalisation."""
        kernels = [4] * len(self.options.discriminator_strides)
        return PatchDiscriminator(
            in_channels,
            spacing,
            self.options.discriminator_features,
            kernels,
            self.options.discriminator_strides,
            batch_norm=True,
        )


class nnUNetTrainerCascadedVGG19(nnUNetTrainerCascaded):
    """Two U-Nets with VGG-19, pretrained on ImageNet, as encoder, in cascade; 2D (section 3.2 and 3.3).

    Without deep supervision, which the paper has not, and with its optimiser.
    """

    _starts_from_imagenet = True

    def configure(self) -> None:
        """One output, the learning rate of section 4.1."""
        super().configure()
        self.initial_lr = 1e-5  # section 4.1
        self.enable_deep_supervision = False

    def check_supported(self) -> None:
        """2D patches that four poolings leave something of; the ImageNet weights."""
        super().check_supported()
        patch = list(self.configuration_manager.patch_size)
        name = type(self).__name__
        if len(patch) != 2:
            raise UserError(
                f"{name} is a 2D network, but configuration {self.configuration_name} is 3D: use 2d, or a trainer "
                "without VGG-19 (nnUNetTrainerCascaded, nnUNetTrainerCascadedGAN)."
            )
        if min(patch) < 16:
            raise UserError(f"{name} needs patches of 16 x 16 pixels or more, but those of the plans are {patch}.")
        if self.enable_deep_supervision:
            raise UserError(f"{name} has one output: leave enable_deep_supervision off.")
        if self._starts_from_imagenet:
            VGG19.find()

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Both networks in one, with random weights."""
        return CascadedNetwork(
            VGG19UNet(colours_of(num_input_channels), num_output_channels),
            VGG19UNet(colours_of(num_input_channels, num_output_channels), num_output_channels),
            cls.options_in(plans_manager).residual,
        )

    def initialize(self) -> None:
        """Build the networks and give both encoders the ImageNet weights."""
        super().initialize()
        file = VGG19.find() if self._starts_from_imagenet else None
        if file is None:
            return
        network: Any = bare(self.network)
        VGG19.load(file, (network.first.encoder, network.second.encoder))
        self.print_to_log_file(f"Both encoders start from the ImageNet weights of {file}.")

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint, which needs no ImageNet weights."""
        self._starts_from_imagenet = False
        super().load_checkpoint(filename_or_checkpoint)

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Adam, as in section 4.1, with nnU-Net's schedule."""
        optimizer = torch.optim.Adam(self.network.parameters(), self.initial_lr)
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing to switch: there is one output."""


class nnUNetTrainerCascadedVGG19GAN(nnUNetTrainerCascadedGAN, nnUNetTrainerCascadedVGG19):
    """Cascade, ImageNet and conditional discriminator, in the paper cGv19pUNet1-1."""

    options_class = CascadedVGG19GANOptions
    options: CascadedVGG19GANOptions


def _drop_unused_heads(network: Any) -> None:
    """Of a network without deep supervision: heads that get no gradient stop ``DistributedDataParallel``."""
    heads = getattr(getattr(network, "decoder", None), "seg_layers", [])
    for i in range(len(heads) - 1):
        heads[i] = nn.Identity()


def _start_without_maps(network: nn.Module, channels: int, maps: int) -> None:
    """Let the first convolution that sees ``channels`` of an image and ``maps`` start with zeros for the latter."""
    for module in network.modules():
        if getattr(module, "in_channels", None) == channels + maps and isinstance(module, (nn.Conv2d, nn.Conv3d)):
            with torch.no_grad():
                module.weight[:, channels:] = 0
            return
    raise AssertionError(f"no convolution of {type(network).__name__} has {channels + maps} channels")
