"""Boundary loss.

Source: Kervadec et al. 2019, as used by Liu et al. 2022 (Multi-level structural information), Eq. 6 and 7.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from nnunet_ext.precision import full_precision

_SLAB_VOXELS = 1 << 14  # on a CPU: what stays in its cache over all classes


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


def boundary_loss_of_logits(logits: torch.Tensor, distance: torch.Tensor, regions: bool = False) -> torch.Tensor:
    """:func:`boundary_loss` of the foreground's probabilities, with its gradient in closed form.

    The same value and gradient as through ``softmax`` or ``sigmoid``, in half the time and without intermediate maps.
    It can be differentiated once.

    Args:
        logits: (B, 1 + C, *spatial), the background first; with regions (B, C, *spatial).
        distance: (B, C, *spatial).
        regions: whether the channels are regions (sigmoid).

    Returns:
        Scalar in mm.
    """
    result: torch.Tensor = _BoundaryOfLogits.apply(full_precision(logits), distance, regions)
    return result


class _BoundaryOfLogits(torch.autograd.Function):
    """Slab by slab: with p = softmax(z), the gradient of sum_k p_k Phi_k is p_c (Phi_c - sum_k p_k Phi_k)."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, distance: torch.Tensor, regions: bool) -> torch.Tensor:
        length = logits.shape[2]
        rows = length if logits.device.type != "cpu" else max(1, _SLAB_VOXELS // math.prod(logits.shape[3:]))
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else logits.new_empty(0)
        sums = []
        for start in range(0, length, rows):
            count = min(rows, length - start)
            values = logits.narrow(2, start, count)
            phi = distance.narrow(2, start, count).to(logits.dtype)
            found = gradient.narrow(2, start, count) if wanted else gradient
            if regions:
                inside = torch.sigmoid(values)
                products = inside * phi
                sums.append(products.sum())
                if wanted:
                    torch.mul(products, 1 - inside, out=found)
            else:
                probabilities = torch.softmax(values, 1)
                expected = (probabilities[:, 1:] * phi).sum(1, keepdim=True)
                sums.append(expected.sum())
                if wanted:
                    found[:, 1:] = probabilities[:, 1:] * (phi - expected)
                    found[:, :1] = -probabilities[:, :1] * expected
        ctx.save_for_backward(gradient)
        ctx.terms = distance.numel()
        return torch.stack(sums).sum() / ctx.terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (above / ctx.terms), None, None
