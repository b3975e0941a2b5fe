"""Training against discriminators of the outputs: what the adversarial trainers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from nnunet_ext.core.errors import UserError
from nnunet_ext.losses.adversarial import GeneratorForm, GeneratorLoss, discriminator_loss
from nnunet_ext.networks.patch_discriminator import PatchDiscriminator
from nnunet_ext.training.auxiliary import AuxiliaryNetwork
from nnunet_ext.training.deep_supervision import trained_outputs
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.region_loss import RegionLossOptions, RegionLossTrainer


@dataclass(frozen=True)
class AdversarialOptions(RegionLossOptions):
    """Options of :class:`AdversarialTrainer`."""

    adversarial_weights: tuple[float, ...] = option(
        (0.001,), "Weight of the adversarial term of each discriminated output, finest first.", at_least=0
    )
    generator_form: GeneratorForm = option(
        "saturating",
        "log(1 - D), whose gradient vanishes while the discriminator is sure, or -log D, whose gradient does not.",
    )
    conditional: bool = option(False, "Whether the discriminators see the image beside the maps.")
    basic_weights: tuple[float, ...] | None = option(
        None,
        "Weights of the region loss on the outputs, finest first, zero for the rest; none: nnU-Net's falling weights.",
        at_least=0,
    )
    basic_weight_of_last: float = option(
        0.1,
        "Weight, relative to the finest output, of one that a discriminator judges and nnU-Net gives none.",
        above=0,
    )
    discriminator_lr: float = option(2e-4, "Learning rate of Adam for the discriminators.", above=0)
    discriminator_betas: tuple[float, float] = option(
        (0.5, 0.999), "Betas of Adam for the discriminators.", at_least=0, below=1
    )


class AdversarialTrainer(RegionLossTrainer):
    """A discriminator for each of the finest outputs judges whether it looks like a ground truth.

    Each iteration: one forward pass of the network, a step of the discriminator on its detached output, a step of
    the network with the discriminator frozen. The discriminators are no part of inference.
    """

    options_class: type[Options] = AdversarialOptions
    options: AdversarialOptions
    curve_titles: Mapping[str, str] = {
        "basic": "Dice + CE",
        "discriminator": "loss of the discriminator",
        "adversarial": "adversarial loss",
        "probability_real": "truth: probability of being real",
        "probability_fake": "prediction: probability of being real",
    }

    def check_supported(self) -> None:
        """Every discriminated output must exist."""
        super().check_supported()
        outputs = len(self._get_deep_supervision_scales()) if self.enable_deep_supervision else 1
        judged = len(self.options.adversarial_weights)
        if outputs < judged:
            raise UserError(
                f"{type(self).__name__} needs {judged} output(s) of deep supervision, but "
                f"configuration {self.configuration_name} has {outputs}: use plans with more resolution stages and "
                "deep supervision on, or a trainer with fewer discriminators (nnUNetTrainerAuxiliaryGAN, "
                "nnUNetTrainer)."
            )
        weights = self.options.basic_weights
        if weights is not None and not all([*weights, *[0.0] * judged][:judged]):
            raise UserError(
                f"basic_weights of {type(self).__name__} must be above 0 for the {judged} output(s) that "
                f"discriminators judge, or these learn from the adversarial term alone; got {weights}."
            )

    def make_discriminator(self, in_channels: int, spacing: Sequence[float]) -> nn.Module:
        """A discriminator (B, in_channels, *spatial) to logits of any shape, for an output of this voxel size in mm."""
        return PatchDiscriminator(in_channels, spacing)

    def build_auxiliary(self) -> dict[str, AuxiliaryNetwork]:
        """One discriminator of the same design for each discriminated output."""
        self.adversarial_loss = GeneratorLoss(self.options.generator_form)
        scales = self._get_deep_supervision_scales() or [[1.0] * len(self.configuration_manager.patch_size)]
        optimizer = partial(torch.optim.Adam, lr=self.options.discriminator_lr, betas=self.options.discriminator_betas)
        networks = {}
        for i in range(len(self.options.adversarial_weights)):
            spacing = [s / scale for s, scale in zip(self.configuration_manager.spacing, scales[i], strict=True)]
            channels = self.label_manager.num_segmentation_heads + self.options.conditional * self.num_input_channels
            module = self.make_discriminator(channels, spacing)
            networks[f"discriminator_{i + 1}"] = self.make_auxiliary(
                module, optimizer, self.options.discriminator_lr, may_compile=False, mixed_precision=False
            )
        return networks

    def _build_loss(self) -> nn.Module:
        """The basic loss with the chosen weights of the outputs; each output that is judged has one."""
        loss: Any = super()._build_loss()
        if not self.enable_deep_supervision:
            return loss
        weights = list(loss.weight_factors)
        if self.options.basic_weights is not None:
            # DDP without compile wants every output to reach the loss: nnU-Net's own remedy.
            rest = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
            loss.weight_factors = (*self.options.basic_weights, *[rest] * len(weights))[: len(weights)]
            return loss
        for i in set(range(len(self.options.adversarial_weights))) - set(trained_outputs(loss)):
            weights[i] = self.options.basic_weight_of_last * weights[0]
        loss.weight_factors = tuple(weights)
        return loss

    def _discriminator_inputs(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and ground truth as maps (B, C, *spatial), zero in ignored voxels."""
        real, valid = self.label_layout.maps(target, logits.shape[1])
        fake = self.label_layout.probabilities(logits)
        return real, fake if valid is None else fake * valid

    def _shown(self, maps: tuple[torch.Tensor, torch.Tensor], data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a discriminator sees: ground truth and prediction (B, C, *spatial), with the image if conditional."""
        if not self.options.conditional:
            return maps
        image = data.float()
        if image.shape[2:] != maps[0].shape[2:]:
            image = interpolate(image, maps[0].shape[2:], mode="area")
        return torch.cat([image, maps[0]], 1), torch.cat([image, maps[1]], 1)

    def train_step(self, batch: dict) -> dict:
        """Discriminator steps on the detached outputs, then the step of the network."""
        data, target = self.to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = self.network(data)
            # From here on the discriminated outputs are float32: the gradients of all terms are summed in float32
            # before they go back into half precision, where the small adversarial ones alone would vanish.
            if self.enable_deep_supervision:
                judged = len(self.options.adversarial_weights)
                outputs = [output.float() if i < judged else output for i, output in enumerate(outputs)]
            else:
                outputs = outputs.float()
            basic = self.loss(outputs, target)
        scales = list(zip(outputs, target, strict=True)) if self.enable_deep_supervision else [(outputs, target)]

        loss = basic + self.added_terms(outputs, target)
        terms = {"basic": basic}
        for i, (weight, (name, discriminator)) in enumerate(
            zip(self.options.adversarial_weights, self.auxiliary.items(), strict=True)
        ):
            # The discriminators run outside autocast, in float32.
            real, fake = self._shown(self._discriminator_inputs(*scales[i]), data)
            real_logits = discriminator(real)
            fake_logits = discriminator(fake.detach())
            discriminator_term = discriminator_loss(real_logits, fake_logits)
            discriminator.step(discriminator_term)
            del real
            with discriminator.frozen():
                adversarial = self.adversarial_loss(discriminator(fake))
            loss = loss + weight * adversarial
            terms |= {
                name: discriminator_term,
                f"adversarial_{i + 1}": adversarial,
                f"probability_real_{i + 1}": torch.sigmoid(real_logits.detach()).mean(),
                f"probability_fake_{i + 1}": torch.sigmoid(fake_logits.detach()).mean(),
            }
        self.network_step(loss)
        return self.step_output(loss, terms)
