"""Cross-entropy on partially labelled images, completed by pseudo-labels.

Source: Zhou et al. 2019 (Prior-aware Neural Network, PaNN), section 3.2. In a partially labelled image the background
of the label map only means that no annotated organ is there: which other organ is, pseudo-labels have to say.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.precision import full_precision


def pseudo_labels(logits: torch.Tensor, annotated: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """The most probable of the classes that the annotation of a sample leaves open (y' of Eq. 5).

    An annotated organ is never named: where the label map does not show it, it is not. Background always is open.

    Args:
        logits: (B, C, *spatial), of the network that is asked.
        annotated: (B, C), ``True`` for the classes or regions that were annotated in the sample.
        layout: of the labels.

    Returns:
        Labels (B, 1, *spatial), or with regions (B, C, *spatial), ``True`` inside.
    """
    closed = annotated.reshape(*annotated.shape, *[1] * (logits.ndim - 2))
    if layout.regions:
        return layout.hard(logits) & ~closed
    closed = torch.cat([torch.zeros_like(closed[:, :1]), closed[:, 1:]], 1)
    return layout.hard(logits.masked_fill(closed, -torch.inf))


def complete_target(target: torch.Tensor, pseudo: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Put pseudo-labels where a label map says nothing: in its background.

    Args:
        target: label map (B, 1, *spatial), or regions (B, R, *spatial), 0 or 1, followed by a channel that marks
            ignored voxels if there is an ignore label. Ignored voxels stay ignored.
        pseudo: of :func:`pseudo_labels` at this or a finer scale, from which the nearest voxel is taken, as nnU-Net
            does with its targets.
        layout: of the labels.

    Returns:
        The completed target, of the shape and type of ``target``.
    """
    pseudo = _nearest(pseudo, target.shape[2:])
    if not layout.regions:
        return torch.where(target == 0, pseudo.to(target.dtype), target)
    number = pseudo.shape[1]
    inside = (target[:, :number] != 0) | (pseudo != 0)
    return torch.cat([inside.to(target.dtype), target[:, number:]], 1)


def _nearest(maps: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """``interpolate(mode="nearest-exact")`` for integers and on every device."""
    for axis, (fine, coarse) in enumerate(zip(maps.shape[2:], shape, strict=True), start=2):
        if fine != coarse:
            centres = (torch.arange(coarse, device=maps.device) + 0.5) * (fine / coarse)
            maps = maps.index_select(axis, centres.long())
    return maps


def voxel_cross_entropy(logits: torch.Tensor, target: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Cross-entropy, the mean over voxels: J_L (Eq. 4), and on a completed target J_P (Eq. 5).

    Both sums of Eq. 5 are in it: a voxel of an annotated organ counts with its label, any other with its pseudo-label.
    Computed in float32 at least, also under autocast.

    Args:
        logits: (B, C, *spatial).
        target: label map (B, 1, *spatial), or regions (B, R, *spatial) as in :func:`complete_target`.
        layout: of the labels; with regions the mean is over voxels and regions.

    Returns:
        Scalar, at least 0; 0 if all voxels are ignored.
    """
    logits = full_precision(logits)
    valid, values = layout.valid(target), layout.values(target)
    if layout.regions:
        terms = binary_cross_entropy_with_logits(logits, values.to(logits.dtype), reduction="none")
    else:
        terms = cross_entropy(logits, values[:, 0].long(), reduction="none")[:, None]
    if valid is None:
        return terms.mean()
    counted = valid.to(logits.dtype)
    return (terms * counted).sum() / (terms.shape[1] * counted.sum()).clamp(min=1)


class VoxelCrossEntropy(nn.Module):
    """:func:`voxel_cross_entropy` with its options, as nnU-Net's trainers hold their loss."""

    def __init__(self, layout: LabelLayout = CLASSES) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits (B, C, *spatial), a scalar."""
        return voxel_cross_entropy(logits, target, self.layout)
