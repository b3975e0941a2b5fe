"""Signed distance maps of single slices, for networks that see slices.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), Eq. 7 on the slices of section 2.2.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from nnunet_ext.data.distance_maps import AddDistanceMaps


class AddSliceDistanceMaps(AddDistanceMaps):
    """Append the signed distance maps of the slices of the finest target to the targets of a sample.

    As :class:`AddDistanceMaps`, but of a 3D patch each slice along the first axis has maps of its own: to a 2D network
    the last slice of an organ is not all border.
    """

    def maps(self, segmentation: NDArray[np.integer]) -> torch.Tensor:
        """The maps (classes, *spatial) of the finest target (channels, *spatial), slice by slice."""
        spacing = self.spacing[-2:]
        if segmentation.ndim == 3:
            return self.maps_of(segmentation, spacing)
        return torch.stack([self.maps_of(segmentation[:, i], spacing) for i in range(segmentation.shape[1])], 1)
