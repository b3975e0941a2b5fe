"""Classes, regions and ignored voxels as one object: how logits and targets of a dataset are to be read.

nnU-Net's networks have either exclusive classes (softmax, a label map as target) or regions that may overlap (sigmoid,
one map a region), each with or without voxels that are ignored. Losses and networks take a :class:`LabelLayout` and ask
it, in place of flags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from nnunet_ext.precision import full_precision

if TYPE_CHECKING:
    from nnunetv2.utilities.label_handling.label_handling import LabelManager


@dataclass(frozen=True)
class LabelLayout:
    """What the channels of logits mean, and which voxels of a target count.

    Targets are as nnU-Net's loader gives them: a label map (B, 1, *spatial) of integers; with regions (B, R, *spatial),
    0 or 1, followed by one more channel that marks ignored voxels if there is an ignore label.

    Attributes:
        regions: whether the channels are regions (sigmoid), all of them foreground; else they are exclusive classes
            (softmax), of which the first one is the background.
        ignore_label: value of ignored voxels in a label map; ``None`` if the dataset has no ignore label.

    Example:
        >>> layout = LabelLayout(ignore_label=2)
        >>> layout.valid(torch.tensor([[[0, 1, 2]]])).tolist()
        [[[True, True, False]]]
        >>> layout.hard(torch.tensor([[[0.1], [0.9]]])).tolist()
        [[[1]]]
    """

    regions: bool = False
    ignore_label: int | None = None

    @classmethod
    def of(cls, manager: LabelManager) -> LabelLayout:
        """The layout of a dataset, from nnU-Net's label manager."""
        return cls(manager.has_regions, manager.ignore_label)

    @property
    def foreground(self) -> slice:
        """The foreground channels."""
        return slice(0 if self.regions else 1, None)

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, C, *spatial) of logits of that shape, in float32 at least."""
        logits = full_precision(logits)
        return torch.sigmoid(logits) if self.regions else torch.softmax(logits, 1)

    def hard(self, logits: torch.Tensor) -> torch.Tensor:
        """Hard prediction: labels (B, 1, *spatial), with regions booleans (B, C, *spatial).

        Of equal logits any one wins.
        """
        if self.regions:
            return logits > 0
        return logits.max(1, keepdim=True).indices  # not argmax, which is slow over the channels on a CPU

    def valid(self, target: torch.Tensor) -> torch.Tensor | None:
        """Mask (B, 1, *spatial), ``True`` in voxels that count; ``None`` if there is no ignore label."""
        if self.ignore_label is None:
            return None
        return target[:, -1:] == 0 if self.regions else target != self.ignore_label

    def values(self, target: torch.Tensor) -> torch.Tensor:
        """The target alone: label map with background in ignored voxels, or regions without the channel of those."""
        if self.ignore_label is None:
            return target
        return target[:, :-1] if self.regions else target.masked_fill(target == self.ignore_label, 0)

    def maps(
        self, target: torch.Tensor, channels: int, dtype: torch.dtype = torch.float32
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Ground truth as one map a class or region, and the mask of voxels that count.

        Args:
            target: see above.
            channels: C, background included unless there are regions.
            dtype: of the maps.

        Returns:
            Maps (B, C, *spatial), zero in ignored voxels, and :meth:`valid`.
        """
        valid = self.valid(target)
        if self.regions:
            maps = self.values(target).to(dtype)
        else:
            maps = torch.zeros((target.shape[0], channels, *target.shape[2:]), dtype=dtype, device=target.device)
            maps.scatter_(1, self.values(target).long(), 1)
        return (maps if valid is None else maps * valid), valid


CLASSES = LabelLayout()
REGIONS = LabelLayout(regions=True)
