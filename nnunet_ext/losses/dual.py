"""Losses of two networks that teach each other.

Source: Huang et al. 2024 (SD-Net), Eq. 3 to 8 and Algorithm 1, which are written for one foreground class; here for any
number of classes (softmax) or regions (sigmoid). The minus signs printed before the
squared errors of Eq. 6 and 8 and the logarithm in the numerator of Eq. 5 are taken for slips.
All functions compute in float32 (float64 stays), also under autocast.
"""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.losses.slabs import slabs
from nnunet_ext.precision import full_precision

# One voxel: without any foreground in a patch, the network that marks less of it still has the lower Dice loss.
DICE_SMOOTHING = 1.0


def dice_sums(
    logits: torch.Tensor, truth: torch.Tensor, valid: torch.Tensor | None = None, layout: LabelLayout = CLASSES
) -> torch.Tensor:
    """Sums from which :func:`dice_of_sums` makes the Dice loss of Eq. 5; those of several devices add up.

    Args:
        logits: (B, C, *spatial).
        truth: maps of the ground truth, (B, C, *spatial), of any type, zero in ignored voxels.
        valid: (B, 1, *spatial), ``False`` in ignored voxels; ``None`` if there are none.
        layout: of the labels.

    Returns:
        (4,): Dice losses of the samples and foreground classes of which there is ground truth, their number, and both
        of all samples and foreground classes.
    """
    voxels = tuple(range(2, logits.ndim))
    sums = []
    for start, count in slabs(logits):
        predicted = layout.probabilities(logits.narrow(2, start, count))[:, layout.foreground]
        if valid is not None:
            predicted = predicted * valid.narrow(2, start, count)
        inside = truth.narrow(2, start, count)[:, layout.foreground].to(predicted.dtype)
        sums.append(torch.stack([(predicted * inside).sum(voxels), predicted.sum(voxels), inside.sum(voxels)]))
    overlap, found, size = torch.stack(sums).sum(0)
    losses = 1 - (2 * overlap + DICE_SMOOTHING) / (found + size + DICE_SMOOTHING)
    present = (size > 0).to(losses.dtype)
    return torch.stack([(losses * present).sum(), present.sum(), losses.sum(), torch.ones_like(losses).sum()])


def dice_of_sums(sums: torch.Tensor) -> torch.Tensor:
    """Dice loss by which Algorithm 1 chooses the teacher: the mean over what is there; over all, where nothing is.

    Without this, a class that is in no patch would decide: the network that is surer of its absence has the lower loss,
    whatever it does with the classes that are there.
    """
    present, number, everything, count = sums
    return torch.where(number > 0, present / number.clamp(min=1), everything / count)


def difference_region(first: torch.Tensor, second: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Where the hard predictions of two networks differ (Eq. 3).

    Args:
        first: logits of the one, (B, C, *spatial).
        second: logits of the other, of the same shape.
        layout: of the labels.

    Returns:
        Boolean (B, 1, *spatial), with regions (B, C, *spatial).
    """
    return layout.hard(first) != layout.hard(second)


def squared_error(
    logits: torch.Tensor, wanted: torch.Tensor, counted: torch.Tensor | None = None, layout: LabelLayout = CLASSES
) -> torch.Tensor:
    """Sum over the voxels of their squared errors, each half the sum over the classes; with regions that of each.

    With its gradient in closed form: neither probabilities nor errors are kept for it. It can be differentiated once.

    Args:
        logits: (B, C, *spatial).
        wanted: probabilities or maps of the ground truth, (B, C, *spatial), of any type; takes no gradient.
        counted: boolean (B, 1, *spatial), with regions (B, C, *spatial); the voxels that count, default all.
        layout: of the labels.

    Returns:
        Scalar.
    """
    result: torch.Tensor = _SquaredError.apply(full_precision(logits), wanted.detach(), counted, layout)
    return result


class _SquaredError(torch.autograd.Function):
    """Slab by slab: with p = softmax(z) and d = p - g, the gradient of sum_c d_c^2 / 2 is p_c (d_c - sum_k p_k d_k)."""

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, wanted: torch.Tensor, counted: torch.Tensor | None, layout: LabelLayout
    ) -> torch.Tensor:
        ctx.save_for_backward(logits, wanted, counted)
        ctx.layout = layout
        sums = []
        for start, count in slabs(logits):
            errors = (
                layout.probabilities(logits.narrow(2, start, count)) - wanted.narrow(2, start, count).to(logits.dtype)
            ).square_()
            errors = errors if layout.regions else errors.sum(1, keepdim=True) / 2
            sums.append(_where(counted, start, count, errors).sum())
        return torch.stack(sums).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        logits, wanted, counted = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for start, count in slabs(logits):
            inside = ctx.layout.probabilities(logits.narrow(2, start, count))
            errors = inside - wanted.narrow(2, start, count).to(logits.dtype)
            if ctx.layout.regions:
                found = 2 * errors * inside * (1 - inside)
            else:
                found = inside * (errors - (inside * errors).sum(1, keepdim=True))
            torch.mul(_where(counted, start, count, found), above, out=gradient.narrow(2, start, count))
        return gradient, None, None, None


def _where(counted: torch.Tensor | None, start: int, count: int, values: torch.Tensor) -> torch.Tensor:
    """The values of a slab, zero where they do not count."""
    return values if counted is None else torch.where(counted.narrow(2, start, count), values, 0)


def difference_loss(
    logits: torch.Tensor,
    truth: torch.Tensor,
    difference: torch.Tensor,
    layout: LabelLayout = CLASSES,
    counted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Squared error in the difference region, divided by the number of voxels (Eq. 6).

    That of a voxel is half the sum over the classes: with one foreground class against the background this is the error
    of its probability, as in the paper, and with many it weighs no less. Regions are counted one by one.

    Args:
        logits: of the network that learns, (B, C, *spatial).
        truth: maps of the ground truth, (B, C, *spatial), of any type.
        difference: of :func:`difference_region`, without ignored voxels.
        layout: of the labels.
        counted: boolean (B, 1, *spatial) or as ``difference``, the voxels whose number divides: those with a label, or
            those that differ alone; default: all, as in Eq. 8.

    Returns:
        Scalar between 0 and 1; 0 if the networks agree everywhere.
    """
    errors = squared_error(logits, truth, difference, layout)
    if counted is None:
        return errors / difference.numel()
    return errors / counted.expand_as(difference).sum().clamp(min=1)


def sharpen(logits: torch.Tensor, temperature: float, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Probabilities P sharpened to ``P^(1/T) / sum P^(1/T)`` over the classes (Algorithm 1, lines 11 and 14).

    With regions each is one class against the rest, ``P^(1/T) / (P^(1/T) + (1 - P)^(1/T))`` as printed. Computed from
    the logits, where no power of a small probability vanishes: they are divided by T.

    Args:
        logits: (B, C, *spatial).
        temperature: T, above 0; 1 leaves the probabilities as they are.
        layout: of the labels.

    Returns:
        (B, C, *spatial).
    """
    return layout.probabilities(full_precision(logits) / temperature)


def teaching_loss(student: torch.Tensor, pseudo_label: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Squared error between a prediction and the pseudo-label of the teacher, the mean over voxels (Eq. 8).

    Half the sum over the classes, as in :func:`difference_loss`.

    Args:
        student: logits of the network that learns, (B, C, *spatial).
        pseudo_label: of :func:`sharpen`, (B, C, *spatial); takes no gradient.
        layout: of the labels.

    Returns:
        Scalar between 0 and 1.
    """
    voxels = student.numel() if layout.regions else student.numel() // student.shape[1]
    return squared_error(student, pseudo_label, layout=layout) / voxels
