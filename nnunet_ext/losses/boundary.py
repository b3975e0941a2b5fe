"""Boundary loss.

Source: Kervadec et al. 2019, as used by Liu et al. 2022 (Multi-level structural information), Eq. 6 and 7.
"""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.losses.slabs import slabs
from nnunet_ext.precision import full_precision

_TINY = 1e-30  # where a class is absent from the batch


def boundary_loss(probabilities: torch.Tensor, distance: torch.Tensor, relative: bool = False) -> torch.Tensor:
    """Mean of ``P * Phi`` over batch, classes and voxels (Eq. 6, divided by the number of terms of its sum).

    Least, for a given ground truth, where P is one inside and zero outside; probability that strays outside costs its
    distance. Computed in float32 at least, also under autocast.

    If ``relative``, each class's sum counts from its least value, that of the ground truth, as a share of what it could
    be at most, and the mean is over the classes that are present: with S the sum of |Phi| inside,
    ``(sum(P * Phi) + S) / (sum(P * |Phi|) + S)``. That is a Dice loss whose voxels weigh |Phi|: 0 for the ground truth,
    1 without overlap, whatever the field of view, the unit of Phi and the size of the organ. The plain mean is least
    for background wherever a class is in doubt: far away, P costs more than it can earn inside, so that it holds back
    organs that are not yet told apart. A Dice loss does not.

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
    phi = distance.to(products.dtype)
    axes = (0, *range(2, phi.ndim))
    inside = (-phi).clamp(min=0).sum(axes)
    shares = (products.sum(axes) + inside) / (products.abs().sum(axes) + inside).clamp(min=_TINY)
    present = inside > 0
    return torch.where(present, shares, 0).sum() / present.sum().clamp(min=1)


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
    function = _ShareOfLogits if relative else _MeanOfLogits
    result: torch.Tensor = function.apply(full_precision(logits), distance, layout)
    return result


def _sum_and_gradient(
    logits: torch.Tensor, phi: torch.Tensor, layout: LabelLayout, gradient: torch.Tensor | None
) -> torch.Tensor:
    """The sum of P * Phi of a slab; writes its gradient into ``gradient``.

    With p = softmax(z), the gradient of sum_k p_k Phi_k is p_c (Phi_c - sum_k p_k Phi_k).
    """
    probabilities = layout.probabilities(logits)
    if layout.regions:
        products = probabilities * phi
        if gradient is not None:
            torch.mul(products, 1 - probabilities, out=gradient)
        return products.sum()
    expected = (probabilities[:, 1:] * phi).sum(1, keepdim=True)
    if gradient is not None:
        gradient[:, 1:] = probabilities[:, 1:] * (phi - expected)
        gradient[:, :1] = -probabilities[:, :1] * expected
    return expected.sum()


class _MeanOfLogits(torch.autograd.Function):
    """The mean of P * Phi, slab by slab."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, distance: torch.Tensor, layout: LabelLayout) -> torch.Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(logits) if wanted else logits.new_empty(0)
        sums = []
        for start, count in slabs(logits):
            phi = distance.narrow(2, start, count).to(logits.dtype)
            found = gradient.narrow(2, start, count) if wanted else None
            sums.append(_sum_and_gradient(logits.narrow(2, start, count), phi, layout, found))
        ctx.save_for_backward(gradient)
        ctx.terms = distance.numel()
        return torch.stack(sums).sum() / ctx.terms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * (above / ctx.terms), None, None


class _ShareOfLogits(torch.autograd.Function):
    """The relative loss, slab by slab, in two rounds: the sums of each class, then the gradient.

    The gradient of a share E = (sum(P * Phi) + S) / D is that of the sum of P * Psi, Psi = (Phi - E * |Phi|) / D.
    """

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, distance: torch.Tensor, layout: LabelLayout) -> torch.Tensor:
        axes = (0, *range(2, logits.ndim))
        sums = []
        for start, count in slabs(logits):
            phi = distance.narrow(2, start, count).to(logits.dtype)
            products = layout.probabilities(logits.narrow(2, start, count))[:, layout.foreground] * phi
            sums.append(torch.stack([products.sum(axes), products.abs().sum(axes), (-phi).clamp(min=0).sum(axes)]))
        earned, possible, inside = torch.stack(sums).sum(0)
        most = (possible + inside).clamp(min=_TINY)
        present = inside > 0
        number = present.sum().clamp(min=1)
        shares = torch.where(present, (earned + inside) / most, 0)
        gradient = logits.new_empty(0)
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(logits)
            by_class = (-1, *(1,) * (logits.ndim - 2))
            weight = torch.where(present, 1 / (most * number), 0).view(by_class)
            share = shares.view(by_class)
            for start, count in slabs(logits):
                phi = distance.narrow(2, start, count).to(logits.dtype)
                psi = (phi - share * phi.abs()) * weight
                _sum_and_gradient(logits.narrow(2, start, count), psi, layout, gradient.narrow(2, start, count))
        ctx.save_for_backward(gradient)
        return shares.sum() / number

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * above, None, None
