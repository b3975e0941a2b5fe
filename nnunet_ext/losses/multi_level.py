"""The terms of the multi-level structural network.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), Eq. 12 and 13.
"""

from __future__ import annotations

import torch

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.losses.boundary import boundary_loss
from nnunet_ext.losses.uncertain_points import point_cross_entropy
from nnunet_ext.precision import full_precision

CLIP = 10.0
STEEPNESS = 5.0


def scaled_distance(distance: torch.Tensor, inside: torch.Tensor, clip: float = CLIP) -> torch.Tensor:
    """Phi of Eq. 12, from -1 (inside, ``clip`` mm or more from the border) to 1 (outside).

    A patch without the border of a class is all outside or all inside of it, at least ``clip`` mm away: its map of
    zeros, see ``nnunet_ext.data.distance_maps``, becomes 1 or -1.

    Args:
        distance: signed distances in mm, (N, C, H, W).
        inside: truth of the same classes, (N, C, H, W).
        clip: in mm; the maps are exact that far out.
    """
    phi = (full_precision(distance) / clip).clamp(-1, 1)
    no_border = (phi == 0).flatten(2).all(2)[..., None, None]
    return torch.where(no_border, 1 - 2 * inside.to(phi.dtype), phi)


def signed_distance_loss(
    prediction: torch.Tensor, phi: torch.Tensor, mask: torch.Tensor | None = None, steepness: float = STEEPNESS
) -> torch.Tensor:
    """Boundary loss and regression of the signed distance (Eq. 12).

    The paper names no unit of Phi. In mm, the square of a distance far from the organ is thousands of times the Dice
    loss, and a sigmoid of mm is a step. Hence Phi is clipped and scaled to -1 ... 1; the prediction regresses
    ``-steepness * Phi``, so that its sigmoid goes from 0.007 to 0.993; and the squared error is divided by
    ``steepness ** 2``, so that a prediction of 0 costs 1 at most, like the other terms of Eq. 13.

    Args:
        prediction: (N, C, H, W), positive inside.
        phi: see :func:`scaled_distance`, (N, C, H, W).
        mask: (N, 1, H, W), 0 where the truth is not known; ``None`` if it is known everywhere.
        steepness: of the sigmoid.

    Returns:
        Scalar; the mean over all pixels and classes that count.
    """
    prediction = full_precision(prediction)
    phi = phi.to(prediction.dtype)
    squared = (prediction / steepness + phi).square()
    if mask is None:
        return boundary_loss(torch.sigmoid(prediction), phi) + squared.mean()
    counted = mask.to(prediction.dtype).expand_as(phi)
    share = counted.mean().clamp(min=1 / counted.numel())
    return (boundary_loss(torch.sigmoid(prediction), phi * counted) + (squared * counted).mean()) / share


def pixel_loss(
    logits: torch.Tensor,
    points: torch.Tensor,
    target: torch.Tensor,
    layout: LabelLayout = CLASSES,
) -> torch.Tensor:
    """Cross-entropy of the pixel branch at its pixels (E_P of Eq. 13, divided by the number of pixels).

    Args:
        logits: (N, C, P).
        points: positions in the flattened slice, (N, P).
        target: label map (N, 1, H, W), or regions, see ``uncertain_point_loss``.
        layout: of the labels; ignored pixels do not count.

    Returns:
        Scalar, at least 0; 0 if all pixels are ignored.
    """
    truth = target.flatten(2).gather(2, points[:, None].expand(-1, target.shape[1], -1))
    return point_cross_entropy(full_precision(logits), truth, layout)
