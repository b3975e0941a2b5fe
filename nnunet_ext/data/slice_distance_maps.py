"""Signed distance maps of single slices, for networks that see slices.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), Eq. 7 on the slices of section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform

from nnunet_ext.data.distance_maps import signed_distance_maps


class AddSliceDistanceMaps(BasicTransform):
    """Append the signed distance maps of the slices of the finest target to the targets of a sample.

    As ``nnunet_ext.data.distance_maps.AddDistanceMaps``, but of a 3D patch each slice along the first axis has maps of
    its own: to a 2D network the last slice of an organ is not all border.

    Args:
        spacing: of the voxels in mm, one per spatial axis of the patch.
        labels: the foreground labels; ``None`` for regions.
        ignore_label: value of ignored voxels, ``None`` if the dataset has no ignore label.
        margin: in mm, see ``signed_distance_maps``.
    """

    def __init__(
        self, spacing: Sequence[float], labels: Sequence[int] | None, ignore_label: int | None, margin: float = 10.0
    ) -> None:
        super().__init__()
        self.spacing = tuple(spacing)
        self.labels = None if labels is None else tuple(labels)
        self.ignore_label = ignore_label
        self.margin = margin

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Append the maps to ``data_dict["segmentation"]``."""
        targets = data_dict["segmentation"]
        targets = targets if isinstance(targets, list) else [targets]
        finest = targets[0].numpy()
        slices = [finest] if finest.ndim == 3 else [finest[:, i] for i in range(finest.shape[1])]
        arguments = (self.spacing[-2:], self.labels, self.ignore_label, self.margin)
        maps = [signed_distance_maps(one, *arguments) for one in slices]
        return {**data_dict, "segmentation": [*targets, maps[0] if finest.ndim == 3 else torch.stack(maps, 1)]}
