"""Pure PyTorch losses: a function per equation and a thin module; knows nothing of nnU-Net.

Example:
    >>> import torch
    >>> from nnunet_ext.losses import boundary_loss, sharpen, voxel_cross_entropy
    >>> inside = torch.tensor([[[1.0, 0.0, 0.0]]])  # probability of one class in a row of three voxels
    >>> distance = torch.tensor([[[-1.0, 0.0, 1.0]]])  # mm, negative inside the organ
    >>> round(boundary_loss(inside, distance).item(), 3)
    -0.333
    >>> logits = torch.tensor([[[2.0, -2.0], [0.0, 0.0]]])
    >>> sharpen(logits, temperature=0.1).argmax(1).tolist()
    [[0, 1]]
    >>> round(voxel_cross_entropy(logits, torch.tensor([[[0, 1]]])).item(), 3)
    0.127
"""

from nnunet_ext.losses.adversarial import GeneratorLoss, discriminator_loss, generator_loss
from nnunet_ext.losses.boundary import boundary_loss, boundary_loss_of_logits
from nnunet_ext.losses.dual import difference_loss, difference_region, sharpen, teaching_loss
from nnunet_ext.losses.multi_level import pixel_loss, signed_distance_loss
from nnunet_ext.losses.partial import VoxelCrossEntropy, complete_target, pseudo_labels, voxel_cross_entropy
from nnunet_ext.losses.prior import DualVariables, marginal_kl, mean_prediction, prior_aware_loss
from nnunet_ext.losses.uncertain_points import draw_points, uncertain_point_loss

__all__ = [
    "DualVariables",
    "GeneratorLoss",
    "VoxelCrossEntropy",
    "boundary_loss",
    "boundary_loss_of_logits",
    "complete_target",
    "difference_loss",
    "difference_region",
    "discriminator_loss",
    "draw_points",
    "generator_loss",
    "marginal_kl",
    "mean_prediction",
    "pixel_loss",
    "prior_aware_loss",
    "pseudo_labels",
    "sharpen",
    "signed_distance_loss",
    "teaching_loss",
    "uncertain_point_loss",
    "voxel_cross_entropy",
]
