"""Cross-entropy on partially labelled images, completed by pseudo-labels.

Source: Zhou et al. 2019 (Prior-aware Neural Network, PaNN), section 3.2. In a partially labelled image the background
of the label map only means that no annotated organ is there: which other organ is, pseudo-labels have to say.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from nnunet_ext.losses.hard_labels import hard_labels
from nnunet_ext.precision import full_precision


def pseudo_labels(logits: torch.Tensor, annotated: torch.Tensor, regions: bool = False) -> torch.Tensor:
    """The most probable of the classes that the annotation of a sample leaves open (y' of Eq. 5).

    An annotated organ is never named: where the label map does not show it, it is not. Background always is open.

    Args:
        logits: (B, C, *spatial), of the network that is asked.
        annotated: (B, C), ``True`` for the classes or regions that were annotated in the sample.
        regions: whether the channels are regions (sigmoid).

    Returns:
        Labels (B, 1, *spatial), or with regions (B, C, *spatial), ``True`` inside.
    """
    closed = annotated.reshape(*annotated.shape, *[1] * (logits.ndim - 2))
    if regions:
        return (logits > 0) & ~closed
    closed = torch.cat([torch.zeros_like(closed[:, :1]), closed[:, 1:]], 1)
    return hard_labels(logits.masked_fill(closed, -torch.inf))


def complete_target(target: torch.Tensor, pseudo: torch.Tensor, regions: bool = False) -> torch.Tensor:
    """Put pseudo-labels where a label map says nothing: in its background.

    Args:
        target: label map (B, 1, *spatial), or regions (B, R, *spatial), 0 or 1, followed by a channel that marks
            ignored voxels if there is an ignore label. Ignored voxels stay ignored.
        pseudo: of :func:`pseudo_labels` at this or a finer scale, from which the nearest voxel is taken, as nnU-Net
            does with its targets.
        regions: whether the target has regions.

    Returns:
        The completed target, of the shape and type of ``target``.
    """
    pseudo = _nearest(pseudo, target.shape[2:])
    if not regions:
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


def voxel_cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, ignore_label: int | None = None, regions: bool = False
) -> torch.Tensor:
    """Cross-entropy, the mean over voxels: J_L (Eq. 4), and on a completed target J_P (Eq. 5).

    Both sums of Eq. 5 are in it: a voxel of an annotated organ counts with its label, any other with its pseudo-label.
    Computed in float32 at least, also under autocast.

    Args:
        logits: (B, C, *spatial).
        target: label map (B, 1, *spatial), or regions (B, R, *spatial) as in :func:`complete_target`.
        ignore_label: value of ignored voxels, which do not count; ``None`` if the dataset has no ignore label.
        regions: whether the channels are regions (sigmoid); the mean is then over voxels and regions.

    Returns:
        Scalar, at least 0; 0 if all voxels are ignored.
    """
    logits = full_precision(logits)
    if not regions:
        known = torch.ones_like(target[:, 0], dtype=logits.dtype)
        labels = target[:, 0].long()
        if ignore_label is not None:
            known = (labels != ignore_label).to(logits.dtype)
            labels = torch.where(labels == ignore_label, 0, labels)
        terms = cross_entropy(logits, labels, reduction="none") * known
        return terms.sum() / known.sum().clamp(min=1)
    number = logits.shape[1]
    terms = binary_cross_entropy_with_logits(logits, target[:, :number].to(logits.dtype), reduction="none")
    if ignore_label is None:
        return terms.mean()
    known = (target[:, number:] == 0).to(logits.dtype)
    return (terms * known).sum() / (number * known.sum()).clamp(min=1)


class VoxelCrossEntropy(nn.Module):
    """:func:`voxel_cross_entropy` with its options, as nnU-Net's trainers hold their loss."""

    def __init__(self, ignore_label: int | None = None, regions: bool = False) -> None:
        super().__init__()
        self.ignore_label = ignore_label
        self.regions = regions

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of logits (B, C, *spatial), a scalar."""
        return voxel_cross_entropy(logits, target, self.ignore_label, self.regions)
