"""What every layout writer shares: the truth it hands back, and writing images and junk files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.phantom.anatomy import Phantom, make_phantom
from nnunet_ext.phantom.contrast import CT, Contrast, scan

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Truth:
    """What a correct conversion of one case holds.

    Attributes:
        channels: one ``(z, y, x)`` array per channel.
        label: ``(z, y, x)`` uint8, kept for test cases too, where the layout hides it.
        spacing: voxel size in mm ``(z, y, x)``.
        origin: centre of the first voxel in mm ``(z, y, x)``, in the LPS frame.
        direction: as in SimpleITK, row by row for x, y, z; by default the axes point left, back and head (LPS).
    """

    channels: tuple[np.ndarray, ...]
    label: np.ndarray
    spacing: Triple
    origin: Triple
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """A dataset as written to disk.

    Attributes:
        folder: what a user would point the converter at.
        train: truth by nnU-Net case name, for the cases with labels.
        test: likewise for the cases whose labels the layout does not hold.
    """

    folder: Path
    train: Mapping[str, Truth] = field(default_factory=dict)
    test: Mapping[str, Truth] = field(default_factory=dict)


def to_sitk(array: np.ndarray, spacing: Triple, origin: Triple) -> sitk.Image:
    """Wrap a ``(z, y, x)`` array with spacing and origin in the same order, axes along LPS."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin[::-1])
    return image


def write_image(path: Path, array: np.ndarray, phantom: Phantom | Truth) -> None:
    """Write a ``(z, y, x)`` array on the phantom's grid in the format its name says, making folders as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = to_sitk(array, phantom.spacing, phantom.origin)
    if isinstance(phantom, Truth):
        image.SetDirection(phantom.direction)
    sitk.WriteImage(image, str(path), path.name.endswith(".gz"))


def patients(
    numbers: Iterable[int], shape: tuple[int, int, int], seed: int, lesions: bool = False
) -> Iterator[tuple[int, Phantom]]:
    """Draw one patient per case number; no two neighbours have the same number of slices."""
    for index, number in enumerate(numbers):
        size = (shape[0] + index % 5, *shape[1:])
        yield number, make_phantom(seed * 100_003 + number, size, lesions=lesions)


def truth_of(phantom: Phantom, organs: Sequence[str], contrasts: Sequence[Contrast] = (CT,)) -> Truth:
    """What a conversion of this patient must hold."""
    channels = tuple(scan(phantom, contrast) for contrast in contrasts)
    return Truth(channels, phantom.labels(organs), phantom.spacing, phantom.origin)


def write_apple_double(path: Path) -> None:
    """Write the ``._`` companion that macOS leaves beside a file in archives."""
    path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ")
