"""Adversarial training with auxiliary and refined constraints.

Source: Lian, Sun, Li, "Extracting organs of interest from medical images based on convolutional neural network with
auxiliary and refined constraints", Scientific Reports 2025, doi 10.1038/s41598-025-86087-8.
"""

from __future__ import annotations

from dataclasses import dataclass

from nnunet_ext.losses.adversarial import GeneratorForm
from nnunet_ext.training.adversarial import AdversarialOptions, AdversarialTrainer
from nnunet_ext.training.options import Options, option

_WEIGHTS = "Weight of the adversarial term of each discriminated output, finest first."


@dataclass(frozen=True)
class AuxiliaryGANOptions(AdversarialOptions):
    """Options of :class:`nnUNetTrainerAuxiliaryGAN`."""

    adversarial_weights: tuple[float, ...] = option((0.001,), _WEIGHTS, "1 (Eq. 2)", at_least=0)
    # No difference was measured between the forms so far, hence the letter.
    generator_form: GeneratorForm = option("saturating", "log(1 - D) or -log D.", "saturating (Eq. 2, 4)")


@dataclass(frozen=True)
class RefinedGANOptions(AuxiliaryGANOptions):
    """Options of :class:`nnUNetTrainerRefinedGAN`."""

    adversarial_weights: tuple[float, ...] = option(
        (0.001, 0.0002), _WEIGHTS, "0.001, 0.0002 (w2, w4 of Eq. 4)", at_least=0
    )
    basic_weights: tuple[float, ...] | None = option(
        None,
        "Weights of the region loss on the outputs, finest first, zero for the rest; none: nnU-Net's falling weights.",
        "1, 0.1 (w1, w3 of Eq. 4)",
        at_least=0,
    )


class nnUNetTrainerAuxiliaryGAN(AdversarialTrainer):
    """A discriminator on the final output judges whether it looks like a ground truth (Eq. 2, 3).

    The optimiser of the discriminators the paper does not name. Inference is that of stock nnU-Net, with the same
    network.

    The letter: ``region_loss = "dice"`` (the basic loss is "measured by dice function"; here it is nnU-Net's, with the
    cross-entropy) and ``adversarial_weights = (1.0,)`` (Eq. 2 prints no factor before the adversarial term).
    """

    options_class: type[Options] = AuxiliaryGANOptions
    options: AuxiliaryGANOptions


class nnUNetTrainerRefinedGAN(nnUNetTrainerAuxiliaryGAN):
    """A second discriminator on the output before the last one, at half resolution, refines it (Eq. 4 to 6).

    The letter: ``region_loss = "dice"`` and ``basic_weights = (1.0, 0.1)``, w1 and w3 of Eq. 4, without a loss on the
    coarser outputs, where by default nnU-Net's falling weights stand.
    """

    options_class: type[Options] = RefinedGANOptions
    options: RefinedGANOptions
