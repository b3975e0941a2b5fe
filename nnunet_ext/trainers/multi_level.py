"""Multi-level structural loss: region, boundary and uncertain pixels, on the network of the plans.

Source: Liu, Duan, Zeng, "Learning multi-level structural information for small organ segmentation", Signal Processing
2022, doi 10.1016/j.sigpro.2021.108418. Their coarse-to-fine model and their network
are in ``coarse_to_fine.py``.
"""

from __future__ import annotations

from collections.abc import Mapping

from nnunet_ext.training.structural import TITLES, StructuralOptions, StructuralTrainer

MLLOptions = StructuralOptions  # what they were called while no other trainer had the terms


class nnUNetTrainerMLL(StructuralTrainer):
    """E_R + alpha * E_B + beta * E_P (Eq. 11), for the fine model alone.

    The pseudo Dice and the loss of validation are those of stock nnU-Net, and so is inference.

    Not the paper's: the region loss is nnU-Net's (``region_loss = "dice"`` is Eq. 5); the boundary term is a share of
    each organ's own (``boundary_scale = "mm"`` is the mean of Eq. 6); the pixel term is a mean where Eq. 10 prints a
    sum; logits are interpolated at the points, where the paper does so with the prediction; optimiser and schedule are
    nnU-Net's.
    """

    curve_titles: Mapping[str, str] = {"region": "region: Dice + CE", **TITLES}


class nnUNetTrainerRegionBoundary(nnUNetTrainerMLL):
    """Region and boundary, without the pixel term: the paper's first ablation."""

    pixel_weight = 0.0


class nnUNetTrainerRegionPixel(nnUNetTrainerMLL):
    """Region and uncertain pixels, without the boundary term. Makes no distance maps."""

    boundary_weight = 0.0
