"""Voxels of a hard prediction that are right, wrong and missed, as nnU-Net counts them for its pseudo Dice."""

from __future__ import annotations

import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn

from nnunet_ext.labels import LabelLayout


@torch.no_grad()
def hard_counts(logits: torch.Tensor, target: torch.Tensor, layout: LabelLayout) -> torch.Tensor:
    """True positives, false positives and false negatives of every foreground class or region, (3, F).

    Args:
        logits: of the finest output, (B, C, *spatial).
        target: as nnU-Net's loader gives it at that scale (:class:`~nnunet_ext.labels.LabelLayout`).
        layout: of the labels. Ignored voxels do not count.
    """
    truth, valid = layout.maps(target, logits.shape[1])
    # float16 as in nnU-Net: the memory of a one-hot map is not small
    if layout.regions:
        predicted = layout.hard(logits).half()
    else:
        predicted = torch.zeros(logits.shape, device=logits.device, dtype=torch.float16)
        predicted.scatter_(1, logits.argmax(1, keepdim=True), 1)
    axes = [0, *range(2, logits.ndim)]
    counts = get_tp_fp_fn_tn(predicted, truth, axes=axes, mask=None if valid is None else valid.float())
    return torch.stack(counts[:3])[:, layout.foreground]
