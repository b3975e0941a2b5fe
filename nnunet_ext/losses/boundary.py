"""Boundary loss.

Source: Kervadec et al. 2019, as used by Liu et al. 2022 (Multi-level structural information), Eq. 6 and 7.
"""

from __future__ import annotations

import torch

from nnunet_ext.losses.precision import full_precision


def boundary_loss(probabilities: torch.Tensor, distance: torch.Tensor) -> torch.Tensor:
    """Mean of ``P * Phi`` over batch, classes and voxels (Eq. 6, divided by the number of terms of its sum).

    Least, for a given ground truth, where P is one inside and zero outside; probability that strays outside costs its
    distance. Computed in float32 at least, also under autocast.

    Args:
        probabilities: of the foreground classes or regions, (B, C, *spatial).
        distance: their signed distances in mm (Eq. 7), (B, C, *spatial), of any precision; see
            ``nnunet_ext.data.distance_maps``.

    Returns:
        Scalar in mm.
    """
    return (full_precision(probabilities) * distance).mean()
