"""Boundary loss.

Source: Kervadec et al. 2019, as used by Liu et al. 2022 (Multi-level structural information), Eq. 6 and 7.
"""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.losses.slabs import slabs
from nnunet_ext.precision import full_precision


def boundary_loss(probabilities: torch.Tensor, distance: torch.Tensor, relative: bool = False) -> torch.Tensor:
    """Mean of ``P * Phi`` over batch, classes and voxels (Eq. 6, divided by the number of terms of its sum).

    Least, for a given ground truth, where P is one inside and zero outside; probability that strays outside costs its
    distance. Computed in float32 at least, also under autocast.

    If ``relative``, the sum of each class is divided by ``sum(P * |Phi|) + sum(|Phi| inside)``, which takes no part in
    the gradient, and the mean is over the classes that are present. That is -1/2 for the ground truth itself and at
    most 1, and its gradient is of the size of a Dice loss's, whatever the field of view, the unit of Phi and the size
    of the organs.

    Args:
        probabilities: of the foreground classes or regions, (B, C, *spatial).
        distance: their signed distances (Eq. 7), (B, C, *spatial), of any precision: in mm, or relative; see
            ``nnunet_ext.data.distance_maps``.
        relative: see above.

    Returns:
        Scalar, in the unit of ``distance`` unless ``relative``.
    """
    products = full_precision(probabilities) * distance
    if not relative:
        return products.mean()
    phi = distance.to(products.dtype).transpose(0, 1).flatten(1)
    here = (-phi).clamp(min=0).sum(1)
    share = 1 / (products.detach().abs().transpose(0, 1).flatten(1).sum(1) + here)
    return (products.transpose(0, 1).flatten(1).sum(1) * torch.where(here > 0, share, 0)).sum() / (
        (here > 0).sum().clamp(min=1)
    )


def boundary_loss_of_logits(
    logits: torch.Tensor, distance: torch.Tensor, layout: LabelLayout = CLASSES, relative: bool = False
) -> torch.Tensor:
    """:func:`boundary_loss` of the foreground's probabilities, with its gradient in closed form.

    The same value and gradient as through ``softmax`` or ``sigmoid``, in half the time and without intermediate maps.
    It can be differentiated once.

    Args:
        logits: (B, 1 + C, *spatial), the background first; with regions (B, C, *spatial).
        distance: (B, C, *spatial).
        layout: of the labels.
        relative: see :func:`boundary_loss`.

    Returns:
        Scalar, in the unit of ``distance`` unless ``relative``.
    """
    lifted = full_precision(logits)
    weights = _class_weights(lifted.detach(), distance, layout) if relative else None
    result: torch.Tensor = _BoundaryOfLogits.apply(lifted, distance, weights, layout)
    return result


def _class_weights(logits: torch.Tensor, distance: torch.Tensor, layout: LabelLayout) -> torch.Tensor:
    """What the sum of each class is multiplied by in the relative loss, (C,); 0 for a class that is absent."""
    axes = (0, *range(2, logits.ndim))
    inside, anywhere = [], []
    for start, count in slabs(logits):
        values, lifted = logits.narrow(2, start, count), distance.narrow(2, start, count).to(logits.dtype)
        inside.append((-lifted).clamp(min=0).sum(axes))
        anywhere.append((layout.probabilities(values)[:, layout.foreground] * lifted.abs()).sum(axes))
    here, there = torch.stack(inside).sum(0), torch.stack(anywhere).sum(0)
    present = here > 0
    return torch.where(present, 1 / (here + there), 0) / present.sum().clamp(min=1)


class _BoundaryOfLogits(torch.autograd.Function):
    """Slab by slab: with p = softmax(z), the gradient of sum_k p_k Phi_k is p_c (Phi_c - sum_k p_k Phi_k)."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, distance: torch.Tensor, weights: torch.Tensor | None, layout: LabelLayout
    ) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else logits.new_empty(0)
        by_class = None if weights is None else weights.view(-1, *(1,) * (logits.ndim - 2))
        sums = []
        for start, count in slabs(logits):
            values = logits.narrow(2, start, count)
            phi = distance.narrow(2, start, count).to(logits.dtype)
            if by_class is not None:
                phi = phi * by_class
            found = gradient.narrow(2, start, count) if wanted else gradient
            if layout.regions:
                inside = layout.probabilities(values)
                products = inside * phi
                sums.append(products.sum())
                if wanted:
                    torch.mul(products, 1 - inside, out=found)
            else:
                probabilities = layout.probabilities(values)
                expected = (probabilities[:, 1:] * phi).sum(1, keepdim=True)
                sums.append(expected.sum())
                if wanted:
                    found[:, 1:] = probabilities[:, 1:] * (phi - expected)
                    found[:, :1] = -probabilities[:, :1] * expected
        ctx.save_for_backward(gradient)
        ctx.terms = distance.numel() if weights is None else 1
        return torch.stack(sums).sum() / ctx.terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (above / ctx.terms), None, None, None
