"""Targets as nnU-Net's loader delivers them, turned into maps that compare with a network's probabilities."""

from __future__ import annotations

import torch


def target_maps(
    target: torch.Tensor,
    num_classes: int,
    ignore_label: int | None = None,
    has_regions: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Ground truth as one map per class or region, and the mask of annotated voxels.

    Args:
        target: label map (B, 1, *spatial) of integers; with regions (B, R, *spatial), 0 or 1, followed by one more
            channel that marks ignored voxels if there is an ignore label.
        num_classes: number of segmentation heads C, background included unless there are regions.
        ignore_label: value of ignored voxels, ``None`` if the dataset has no ignore label.
        has_regions: whether the heads are regions (sigmoid).
        dtype: of the maps; ``torch.bool`` takes a quarter of the memory.

    Returns:
        Maps (B, C, *spatial), zero in ignored voxels, and the mask (B, 1, *spatial), ``True`` where annotated;
        ``None`` without an ignore label.
    """
    if has_regions:
        if ignore_label is None:
            return target.to(dtype), None
        mask = target[:, -1:] == 0
        return target[:, :-1].to(dtype) * mask, mask

    maps = torch.zeros((target.shape[0], num_classes, *target.shape[2:]), dtype=dtype, device=target.device)
    if ignore_label is None:
        return maps.scatter_(1, target.long(), 1), None
    mask = target != ignore_label
    return maps.scatter_(1, torch.where(mask, target, 0).long(), 1) * mask, mask
