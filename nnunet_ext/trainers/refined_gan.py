"""Adversarial training with auxiliary and refined constraints.

Source: Lian, Sun, Li, "Extracting organs of interest from medical images based on convolutional neural network with
auxiliary and refined constraints", Scientific Reports 2025, doi 10.1038/s41598-025-86087-8.
"""

from __future__ import annotations

from nnunet_ext.losses.adversarial import GeneratorForm
from nnunet_ext.training.adversarial import AdversarialTrainer


class nnUNetTrainerAuxiliaryGAN(AdversarialTrainer):
    """A discriminator on the final output judges whether it looks like a ground truth (Eq. 2, 3).

    The optimiser of the discriminators the paper does not name. Inference is that of stock nnU-Net, with the same
    network.

    The letter: ``basic = "dice"`` (the basic loss is "measured by dice function"; here it is nnU-Net's, with the
    cross-entropy) and ``adversarial_weights = (1.0,)`` (Eq. 2 prints no factor before the adversarial term).
    """

    adversarial_weights: tuple[float, ...] = (0.001,)  # not of Eq. 2, which has 1: w2 of Eq. 4, for the same term
    # Eq. 2 and 4 print log(1 - D). No difference was measured between the forms so far, hence the letter.
    generator_form: GeneratorForm = "saturating"


class nnUNetTrainerRefinedGAN(nnUNetTrainerAuxiliaryGAN):
    """A second discriminator on the output before the last one, at half resolution, refines it (Eq. 4 to 6).

    The letter: ``basic = "dice"`` and ``basic_weights = (1.0, 0.1)``, w1 and w3 of Eq. 4, without a loss on the coarser
    outputs, where by default nnU-Net's falling weights stand.
    """

    adversarial_weights = (0.001, 0.0002)  # w2 and w4 of Eq. 4
