"""Checks of one case that a network would otherwise learn from: label values, shapes, orientation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.formats.geometry import Geometry
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import LABEL_ROUNDING

if TYPE_CHECKING:  # looking at headers needs no numpy, which takes a while to import
    import numpy as np

#: Organs of even intensity, the most telling first: their label shows whether it lies on its image.
TELLING_ORGANS = ("liver", "spleen", "kidney", "pancreas")
_SAMPLES = 50_000


def check_same_size(image: Geometry, label: Geometry, image_name: Path | str, label_name: Path | str) -> None:
    """Raise :class:`UserError` where two grids differ in their number of voxels."""
    if image.size != label.size:
        raise UserError(
            f"{label_name} has {_by(label.size)} voxels (x, y, z) and its image {image_name} has {_by(image.size)}."
        )


#: A CT shows air, at -1000 HU: at the lowest its voxels lie about there, with noise and rounding somewhat above.
LOWEST_CT = -500


def check_intensities(image: np.ndarray | None, channel: str) -> str:
    """Say, as a clause without subject, why voxels cannot be those of the channel; empty where they can."""
    if image is None or channel.casefold() != "ct" or not image.size:
        return ""
    lowest = float(image.min())
    if lowest <= LOWEST_CT:
        return ""
    return (
        f"has {lowest:g} as its lowest value, and a CT shows air at -1000 HU: most likely it was not rescaled to "
        "Hounsfield units, or windowed"
    )


#: Organs that fill more of an image than this are most likely its background.
LARGEST_SHARE = 0.6


def check_share_of_organs(label: np.ndarray) -> str | None:
    """Say, as a clause without subject, why a label map cannot be one of organs; None where it can."""
    import numpy as np

    share = np.count_nonzero(label) / max(1, label.size)
    if share == 0:
        return "holds no voxel of an organ"
    if share > LARGEST_SHARE:
        return f"calls {share:.0%} of its voxels organs, so that most likely its background has a label"
    return None


BACKGROUND, IGNORE = "background", "ignore"


def check_label_table(labels: Mapping[str, int], where: Path | str) -> None:
    """Raise :class:`UserError` where nnU-Net cannot plan with a table of labels.

    Args:
        labels: value by name.
        where: named in the message.
    """
    if labels.get(BACKGROUND) != 0:
        raise UserError(f'{where} does not call label 0 "{BACKGROUND}", as nnU-Net needs it.')
    if sorted(labels.values()) != list(range(len(labels))):
        raise UserError(
            f"{where} numbers its labels {sorted(labels.values())}; nnU-Net needs 0, 1, 2, ... without gaps."
        )
    if not set(labels) - {BACKGROUND, IGNORE}:
        raise UserError(f"{where} names no label besides {' and '.join(labels)}: there is nothing to segment.")
    if labels.get(IGNORE, len(labels) - 1) != len(labels) - 1:
        raise UserError(f'{where} gives "{IGNORE}" the value {labels[IGNORE]}; nnU-Net needs the highest one.')
    if len(labels) > 2**16:
        raise UserError(f"{where} names {len(labels)} labels, more than nnU-Net can store.")


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def integer_labels(array: np.ndarray, path: Path) -> tuple[np.ndarray, bool]:
    """Give a label array as integers.

    Returns:
        The array as an integer type, and whether values had to be rounded.

    Raises:
        UserError: a value is further than :data:`LABEL_ROUNDING` from an integer, negative, or not finite.
    """
    import numpy as np

    if array.dtype.kind == "b":
        return array.view(np.uint8), False
    if array.size and not (array.min() >= 0 and array.max() < 2**16):  # also catches NaN
        raise UserError(f"{path} is no label map: its values go from {array.min()} to {array.max()}.")
    if array.dtype.kind in "ui":
        return array, False
    rounded = np.rint(array).astype(np.uint16)
    deviation = np.abs(array - rounded).max(initial=0)
    if deviation > LABEL_ROUNDING:
        raise UserError(f"{path} is no label map: it holds values that are no integers (off by up to {deviation:.3g}).")
    return rounded, bool(deviation > 0)


def check_label_values(array: np.ndarray, labels: Mapping[str, int], path: Path) -> None:
    """Raise :class:`UserError` where an integer label map holds a value that ``labels`` does not name.

    Args:
        array: integers not below 0.
        labels: numbered 0, 1, 2, ... without gaps, so that a look at the largest value is enough.
        path: named in the message.
    """
    import numpy as np

    highest = max(labels.values())
    if array.size and array.max() > highest:
        unknown = np.unique(array[array > highest]).tolist()
        known = ", ".join(f"{value} {name}" for name, value in sorted(labels.items(), key=lambda item: item[1]))
        raise UserError(f"{path} holds label value {', '.join(map(str, unknown))}; this dataset knows {known}.")


@dataclass(frozen=True)
class Plausible:
    """Intensities that a parenchymal organ has under a label that lies on it.

    Attributes:
        low: smallest plausible median.
        high: largest plausible median.
        spread: largest plausible distance of the 5th and 95th percentile, in the image's units or, where
            ``relative``, in medians.
        relative: the image has no fixed units.
    """

    low: float
    high: float
    spread: float
    relative: bool


#: Hounsfield units. Real livers, spleens, kidneys and pancreases have spreads of 50-90, flipped labels of 130-1300.
CT = Plausible(-10, 250, 140, relative=False)
MR = Plausible(1, math.inf, 0.5, relative=True)


def telling_label(labels: Mapping[str, int]) -> int | None:
    """The value of the label that best shows a wrong orientation; None where there is no such organ."""
    for organ in TELLING_ORGANS:
        for name, value in labels.items():
            if organ in name.lower() and not any(word in name.lower() for word in ("tumo", "cancer", "vessel", "vein")):
                return value
    return None


@dataclass(frozen=True)
class Orientation:
    """What the image looks like under a label and under its mirror images.

    Attributes:
        spread: distance of 5th and 95th percentile under the label as it is; relative to the median for MR.
        median: median under the label as it is.
        better: axes, such as ``"zy"``, along which the label would have to be flipped to lie on its organ;
            empty where no flip is clearly better.
        plausible: the label as it is covers something organ-like.
    """

    spread: float
    median: float
    better: str
    plausible: bool


def check_orientation(image: np.ndarray, mask: np.ndarray, expected: Plausible) -> Orientation | None:
    """Compare the intensities under a mask with those under its mirror images.

    A label that lies on its organ covers one tissue; flipped, it covers a mixture. On a CHAOS liver the standard
    deviation is 34 HU as it is and 196 to 347 HU for the flips.

    Args:
        image: ``(z, y, x)``.
        mask: boolean, same shape.
        expected: what counts as organ-like.

    Returns:
        None for a mask of fewer than 20 voxels, which says nothing.
    """
    import numpy as np

    voxels = np.flatnonzero(mask)
    if voxels.size < 20:
        return None
    z, y, x = np.unravel_index(voxels[:: max(1, voxels.size // _SAMPLES)], mask.shape)
    last = [n - 1 for n in mask.shape]

    def measure(flip: tuple[str, ...]) -> tuple[float, float, bool]:
        under = image[
            last[0] - z if "z" in flip else z, last[1] - y if "y" in flip else y, last[2] - x if "x" in flip else x
        ]
        low, median, high = (float(v) for v in np.percentile(under, (5, 50, 95)))
        spread = (high - low) / max(abs(median), 1e-6) if expected.relative else high - low
        return spread, median, expected.low <= median <= expected.high and spread <= expected.spread

    spread, median, plausible = measure(())
    better = ""
    if not plausible:
        candidates = []
        for flip in (flip for count in (1, 2, 3) for flip in combinations("zyx", count)):
            other, _, organ_like = measure(flip)
            if organ_like and other < spread / 2:
                candidates.append((len(flip), other, "".join(flip)))
        better = min(candidates)[2] if candidates else ""  # the simplest flip that does
    return Orientation(spread, median, better, plausible)
