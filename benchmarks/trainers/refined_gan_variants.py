"""Variants of the RefinedGAN for the accuracy benchmark; each is the three-line subclass a user would write."""

from nnunet_ext.trainers.refined_gan import nnUNetTrainerRefinedGAN


class nnUNetTrainerRefinedGANSaturating(nnUNetTrainerRefinedGAN):
    """log(1 - D), the letter of Eq. 4, with nnU-Net's weights of the deep-supervision outputs."""

    generator_form = "saturating"
    adversarial_weights = (0.001, 0.0002)
    basic_weights = None


class nnUNetTrainerRefinedGANLetter(nnUNetTrainerRefinedGAN):
    """Eq. 4 to the letter: the Dice loss alone, w1 = 1 and w3 = 0.1 on the two finest outputs, none on the others."""

    region_loss = "dice"
    generator_form = "saturating"
    adversarial_weights = (0.001, 0.0002)
    basic_weights = (1.0, 0.1)


class nnUNetTrainerRefinedGANNonSaturating(nnUNetTrainerRefinedGAN):
    """- log D in place of log(1 - D)."""

    generator_form = "non_saturating"
    adversarial_weights = (0.001, 0.0002)
    basic_weights = None


class nnUNetTrainerRefinedGANStrong(nnUNetTrainerRefinedGAN):
    """- log D with fifty times the paper's weights, in the paper's ratio."""

    generator_form = "non_saturating"
    adversarial_weights = (0.05, 0.01)
    basic_weights = None
