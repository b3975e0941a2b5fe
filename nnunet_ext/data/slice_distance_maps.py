"""Signed distance maps of single slices, for networks that see slices.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), Eq. 7 on the slices of section 2.2.
"""

from __future__ import annotations

from typing import Any

import torch

from nnunet_ext.data.distance_maps import AddDistanceMaps, signed_distance_maps


class AddSliceDistanceMaps(AddDistanceMaps):
    """Append the signed distance maps of the slices of the finest target to the targets of a sample.

    As :class:`AddDistanceMaps`, but of a 3D patch each slice along the first axis has maps of its own: to a 2D network
    the last slice of an organ is not all border.
    """

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Append the maps to ``data_dict["segmentation"]``."""
        targets = data_dict["segmentation"]
        targets = targets if isinstance(targets, list) else [targets]
        finest = targets[0].numpy()
        slices = [finest] if finest.ndim == 3 else [finest[:, i] for i in range(finest.shape[1])]
        arguments = (self.spacing[-2:], self.labels, self.ignore_label, self.margin, self.relative, self.absent)
        maps = [signed_distance_maps(one, *arguments) for one in slices]
        return {**data_dict, "segmentation": [*targets, maps[0] if finest.ndim == 3 else torch.stack(maps, 1)]}
