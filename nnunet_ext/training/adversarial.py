"""Training against discriminators of the outputs: what the adversarial trainers share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.targets import target_maps
from nnunet_ext.losses.adversarial import GeneratorForm, GeneratorLoss, discriminator_loss
from nnunet_ext.networks.patch_discriminator import PatchDiscriminator
from nnunet_ext.training.auxiliary import AuxiliaryNetwork
from nnunet_ext.training.deep_supervision import trained_outputs
from nnunet_ext.training.region_loss import BasicLossTrainer


class AdversarialTrainer(BasicLossTrainer):
    """A discriminator for each of the finest outputs judges whether it looks like a ground truth.

    Each iteration: one forward pass of the network, a step of the discriminator on its detached output, a step of
    the network with the discriminator frozen. The discriminators are no part of inference.
    """

    # Weight of the adversarial term of each discriminated output.
    adversarial_weights: tuple[float, ...]
    # log(1 - D), "saturating", whose gradient vanishes while the discriminator is sure of itself, or -log D,
    # "non_saturating", whose gradient does not.
    generator_form: GeneratorForm
    # Whether the discriminators see the image beside the maps.
    conditional: bool = False
    # Weights of the basic loss on the outputs, finest first, zero for the rest; None: nnU-Net's falling weights.
    basic_weights: tuple[float, ...] | None = None
    # nnU-Net gives the last of its outputs no weight. One that a discriminator judges needs a basic loss, or it learns
    # from its adversarial term alone: its weight relative to that of the finest output, w3 of Lian et al. 2025, Eq. 4.
    basic_weight_of_last: float = 0.1
    # Adam for the discriminators.
    discriminator_lr: float = 2e-4
    discriminator_betas: tuple[float, float] = (0.5, 0.999)

    def check_supported(self) -> None:
        """Every discriminated output must exist."""
        super().check_supported()
        outputs = len(self._get_deep_supervision_scales()) if self.enable_deep_supervision else 1
        if outputs < len(self.adversarial_weights):
            raise UserError(
                f"{type(self).__name__} needs {len(self.adversarial_weights)} output(s) of deep supervision, but "
                f"configuration {self.configuration_name} has {outputs}: use plans with more resolution stages and "
                "deep supervision on, or a trainer with fewer discriminators (nnUNetTrainerAuxiliaryGAN, "
                "nnUNetTrainer)."
            )
        judged = len(self.adversarial_weights)
        if self.basic_weights is not None and not all([*self.basic_weights, *[0.0] * judged][:judged]):
            raise UserError(
                f"basic_weights of {type(self).__name__} must be above 0 for the {judged} output(s) that "
                f"discriminators judge, or these learn from the adversarial term alone; got {self.basic_weights}."
            )

    def make_discriminator(self, in_channels: int, spacing: Sequence[float]) -> nn.Module:
        """A discriminator (B, in_channels, *spatial) to logits of any shape, for an output of this voxel size in mm."""
        return PatchDiscriminator(in_channels, spacing)

    def build_auxiliary(self) -> dict[str, AuxiliaryNetwork]:
        """One discriminator of the same design for each discriminated output."""
        self.adversarial_loss = GeneratorLoss(self.generator_form)
        scales = self._get_deep_supervision_scales() or [[1.0] * len(self.configuration_manager.patch_size)]
        optimizer = partial(torch.optim.Adam, lr=self.discriminator_lr, betas=self.discriminator_betas)
        networks = {}
        for i in range(len(self.adversarial_weights)):
            spacing = [s / scale for s, scale in zip(self.configuration_manager.spacing, scales[i], strict=True)]
            channels = self.label_manager.num_segmentation_heads + self.conditional * self.num_input_channels
            module = self.make_discriminator(channels, spacing)
            networks[f"discriminator_{i + 1}"] = self.make_auxiliary(
                module, optimizer, self.discriminator_lr, may_compile=False, mixed_precision=False
            )
        return networks

    def _build_loss(self) -> nn.Module:
        """The basic loss with the chosen weights of the outputs; each output that is judged has one."""
        loss: Any = super()._build_loss()
        if not self.enable_deep_supervision:
            return loss
        weights = list(loss.weight_factors)
        if self.basic_weights is not None:
            # DDP without compile wants every output to reach the loss: nnU-Net's own remedy.
            rest = 1e-6 if self.is_ddp and not self._do_i_compile() else 0.0
            loss.weight_factors = (*self.basic_weights, *[rest] * len(weights))[: len(weights)]
            return loss
        for i in set(range(len(self.adversarial_weights))) - set(trained_outputs(loss)):
            weights[i] = self.basic_weight_of_last * weights[0]
        loss.weight_factors = tuple(weights)
        return loss

    def _discriminator_inputs(self, logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities and ground truth as maps (B, C, *spatial), zero in ignored voxels."""
        has_regions = self.label_manager.has_regions
        real, mask = target_maps(target, logits.shape[1], self.label_manager.ignore_label, has_regions)
        fake = torch.sigmoid(logits) if has_regions else torch.softmax(logits, 1)
        return real, fake if mask is None else fake * mask

    def _shown(self, maps: tuple[torch.Tensor, torch.Tensor], data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What a discriminator sees: ground truth and prediction (B, C, *spatial), with the image if conditional."""
        if not self.conditional:
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
                judged = len(self.adversarial_weights)
                outputs = [output.float() if i < judged else output for i, output in enumerate(outputs)]
            else:
                outputs = outputs.float()
            basic = self.loss(outputs, target)
        scales = list(zip(outputs, target, strict=True)) if self.enable_deep_supervision else [(outputs, target)]

        loss = basic
        terms = {"basic": basic}
        for i, (weight, (name, discriminator)) in enumerate(
            zip(self.adversarial_weights, self.auxiliary.items(), strict=True)
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
