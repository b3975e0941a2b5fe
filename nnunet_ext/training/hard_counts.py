"""Voxels of a hard prediction that are right, wrong and missed, as nnU-Net counts them for its pseudo Dice."""

from __future__ import annotations

import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_ext.data.targets import target_maps


@torch.no_grad()
def hard_counts(logits: torch.Tensor, target: torch.Tensor, manager: LabelManager) -> torch.Tensor:
    """True positives, false positives and false negatives of every foreground class or region, (3, F).

    Args:
        logits: of the finest output, (B, C, *spatial).
        target: as nnU-Net's loader gives it at that scale (:func:`~nnunet_ext.data.targets.target_maps`).
        manager: of the dataset's labels. Ignored voxels do not count.
    """
    truth, mask = target_maps(target, logits.shape[1], manager.ignore_label, manager.has_regions)
    if manager.has_regions:
        predicted = torch.sigmoid(logits) > 0.5
    else:
        # float16 as in nnU-Net: the memory of a one-hot map is not small
        predicted = torch.zeros(logits.shape, device=logits.device, dtype=torch.float16)
        predicted.scatter_(1, logits.argmax(1, keepdim=True), 1)
    axes = [0, *range(2, logits.ndim)]
    counts = get_tp_fp_fn_tn(predicted, truth, axes=axes, mask=None if mask is None else mask.float())
    return torch.stack(counts[:3])[:, 0 if manager.has_regions else 1 :]
