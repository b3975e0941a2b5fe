"""Signed distance maps of augmented targets, made in the data-loading workers.

Source: Liu et al. 2022 (Multi-level structural information), Eq. 7. A full distance transform of every class would keep
the workers busy for seconds a patch; here each class costs a transform of its own bounding box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import edt
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunet_ext.core.masks import border

Window = tuple[slice, ...]


def signed_distance(
    inside: NDArray[np.bool_], spacing: Sequence[float], unknown: NDArray[np.bool_] | None = None
) -> NDArray[np.float32] | None:
    """Signed Euclidean distance to the border voxels of an object (Eq. 7).

    A border voxel belongs to the object and has a face neighbour that does not; the edge of the array is no border,
    as the object may go on beyond it, and neither is an unknown voxel.

    Args:
        inside: the object D, (*spatial).
        spacing: of the voxels in mm, one per axis.
        unknown: voxels that may or may not belong to the object (ignore label).

    Returns:
        Distance in mm, (*spatial): negative inside, zero on border voxels, positive outside; ``None`` if the object
        has no border in the array.
    """
    on_border = border(inside, edge_is_surface=False, ignored=unknown)
    if not on_border.any():
        return None
    distance = edt.edt(~on_border, anisotropy=tuple(spacing), parallel=1)
    np.negative(distance, out=distance, where=inside)
    return distance


def relative_distance(distance: NDArray[np.float32], spacing: Sequence[float]) -> NDArray[np.float32]:
    """Signed distance in units of the object's own mean depth, cut off at one of them.

    Distances of :func:`signed_distance` count from the centres of border voxels; here they count from half a voxel
    further out, so that an object one voxel thin has an inside too. What lies deep inside an object is worth as much
    as what lies far outside, for a large one as for a small one, whatever the field of view.

    Args:
        distance: of an object that has a border, in mm, (*spatial).
        spacing: of the voxels in mm, one per axis.

    Returns:
        Between -1 and 1, (*spatial), negative on every voxel of the object, positive elsewhere.
    """
    from_face = distance - np.float32(min(spacing) / 2)
    from_face /= -from_face[distance <= 0].mean()
    return from_face.clip(-1, 1, out=from_face)


def _window(box: Window, shape: tuple[int, ...], spacing: Sequence[float], margin: float) -> Window:
    """``box`` with ``margin`` mm, at least a voxel, on every side, inside ``shape``."""
    grown = []
    for extent, length, step in zip(box, shape, spacing, strict=True):
        voxels = max(1, int(np.ceil(margin / step)))
        grown.append(slice(max(0, extent.start - voxels), min(length, extent.stop + voxels)))
    return tuple(grown)


def _extend(
    distance: NDArray[np.float32], window: Window, shape: tuple[int, ...], spacing: Sequence[float]
) -> NDArray[np.float32]:
    """Distances of a window carried on to the whole patch: distance at the nearest voxel of it plus the way there."""
    if distance.shape == shape:
        return distance
    squared_way = np.zeros((1,) * len(shape), np.float32)
    for axis, (extent, length, step) in enumerate(zip(window, shape, spacing, strict=True)):
        position = np.arange(length, dtype=np.float32)
        way = (position - position.clip(extent.start, extent.stop - 1)) * np.float32(step)
        squared_way = squared_way + np.expand_dims(way**2, [i for i in range(len(shape)) if i != axis])
    padding = [(extent.start, length - extent.stop) for extent, length in zip(window, shape, strict=True)]
    whole = np.pad(distance, padding, mode="edge")
    whole += np.sqrt(squared_way, out=squared_way)
    return whole


def signed_distance_maps(
    segmentation: NDArray[np.integer],
    spacing: Sequence[float],
    labels: Sequence[int] | None,
    ignore_label: int | None = None,
    margin: float = 10.0,
    relative: bool = False,
    absent: bool = False,
) -> torch.Tensor:
    """Signed distance maps of all foreground classes or regions of a patch.

    Inside the bounding box of a class and up to ``margin`` around it the map is exact, to the precision of float16.
    Further out it is the distance at the nearest voxel of that window plus the way there: continuous, and never
    less than the true distance. A class without border voxels in the patch has a map of zeros (but see ``absent``), and
    so do ignored voxels. Where the patch reaches beyond the image, nnU-Net's background counts as such.

    Args:
        segmentation: label map (1, *spatial), or regions (R, *spatial), 0 or 1, followed by a channel that marks
            ignored voxels if there is an ignore label.
        spacing: of the voxels in mm, one per spatial axis.
        labels: the foreground labels; ``None`` for regions.
        ignore_label: value of ignored voxels, ``None`` if the dataset has no ignore label.
        margin: in mm.
        relative: give the distances of :func:`relative_distance`, sample by sample.
        absent: the map of a class that is not there is 1, the largest relative distance, in place of 0.

    Returns:
        Distance in mm, float16 (classes, *spatial): negative inside, zero on border voxels, positive outside. If
        ``relative``, without unit.
    """
    shape = segmentation.shape[1:]
    boxes: list[Window | None]
    if labels is None:
        ignored = None if ignore_label is None else segmentation[-1] != 0
        channels = list((segmentation if ignored is None else segmentation[:-1]).astype(np.uint8))
        values: Sequence[int] = [1] * len(channels)
        boxes = [next(iter(find_objects(channel)), None) for channel in channels]
    else:
        ignored = None if ignore_label is None else segmentation[0] == ignore_label
        channels, values = [segmentation[0]] * len(labels), labels
        found = find_objects(segmentation[0])
        boxes = [found[label - 1] if label <= len(found) else None for label in labels]

    # torch's, which converts to half precision 40 times faster than numpy
    maps = torch.zeros((len(channels), *shape), dtype=torch.float16)
    for whole, channel, value, box in zip(maps, channels, values, boxes, strict=True):
        if box is None:
            whole.fill_(absent)
            continue
        window = _window(box, shape, spacing, margin)
        unknown = None if ignored is None else ignored[window]
        distance = signed_distance(channel[window] == value, spacing, unknown)
        if distance is not None:
            distance = _extend(distance, window, shape, spacing)
            whole.copy_(torch.from_numpy(relative_distance(distance, spacing) if relative else distance))
    if ignored is not None:
        maps[:, torch.from_numpy(ignored)] = 0
    return maps


class AddDistanceMaps(BasicTransform):
    """Append the signed distance maps of the finest target to the targets of a sample.

    To be applied last. The segmentation becomes a list, if it is none already, whose last entry is the output of
    :func:`signed_distance_maps`; nnU-Net's loader then batches it with the rest.
    """

    def __init__(
        self,
        spacing: Sequence[float],
        labels: Sequence[int] | None,
        ignore_label: int | None,
        margin: float = 10.0,
        relative: bool = False,
        absent: bool = False,
    ) -> None:
        super().__init__()
        self.spacing = tuple(spacing)
        self.labels = None if labels is None else tuple(labels)
        self.ignore_label = ignore_label
        self.margin = margin
        self.relative = relative
        self.absent = absent

    def apply(self, data_dict: dict[str, Any], **params: Any) -> dict[str, Any]:
        """Append the maps to ``data_dict["segmentation"]``."""
        targets = data_dict["segmentation"]
        targets = targets if isinstance(targets, list) else [targets]
        return {**data_dict, "segmentation": [*targets, self.maps(targets[0].numpy())]}

    def maps(self, segmentation: NDArray[np.integer]) -> torch.Tensor:
        """The maps (classes, *spatial) of the finest target (channels, *spatial)."""
        return self.maps_of(segmentation, self.spacing)

    def maps_of(self, part: NDArray[np.integer], spacing: Sequence[float]) -> torch.Tensor:
        """The maps of a patch or a part of it that stands alone, with the spacing of its axes."""
        return signed_distance_maps(
            part, spacing, self.labels, self.ignore_label, self.margin, self.relative, self.absent
        )
