"""Cases to be converted: where one comes from and how it is read. Sent to worker processes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dataset_conversion.checks import check_same_size
from dataset_conversion.formats.geometry import Geometry
from dataset_conversion.formats.metaimage import companion
from dataset_conversion.formats.volumes import Volume, read_header, read_volume
from dataset_conversion.options import Check
from nnunet_ext.core.errors import UserError, together

#: Labelled, test, and unlabelled cases for training: the endings of imagesTr, imagesTs and imagesUn.
Subset = Literal["Tr", "Ts", "Un"]


class SkipCaseError(Exception):
    """A case that is known to be unusable; the message is its line in the report."""


@dataclass(frozen=True)
class Scan:
    """One case as read.

    Attributes:
        channels: one volume per channel, all on one grid.
        label: label map on that grid; None for cases without labels.
        warnings: what the report should say about the case, one sentence each.
        digest: hash of the image; two cases with the same one are refused. Empty where images are not compared.
    """

    channels: Sequence[Volume]
    label: Volume | None = None
    warnings: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Case(ABC):
    """One case of the new dataset.

    Attributes:
        name: nnU-Net's case identifier.
        subset: which of nnU-Net's folders it belongs to.
    """

    name: str
    subset: Subset

    @property
    @abstractmethod
    def image_path(self) -> Path:
        """File or folder that messages about the image name."""

    @property
    @abstractmethod
    def label_path(self) -> Path:
        """File or folder that messages about the label name; that of the image where there is no label."""

    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """All files the case is made of."""

    @abstractmethod
    def check_headers(self) -> Sequence[tuple[Path, Volume]]:
        """Find, without reading voxels, what is wrong with the case.

        Returns:
            Headers of its images, by path, whose grids are then judged; none where only reading the case gives them.

        Raises:
            UserError: something is wrong.
        """

    @abstractmethod
    def read(self, check: Check) -> Scan:
        """Read the case; raises :class:`UserError` or :class:`SkipCaseError`."""


@dataclass(frozen=True)
class FileCase(Case):
    """A case whose image and label are one file each, on one voxel grid whatever the label's header says.

    Attributes:
        image: 3D image, or 4D with one channel per volume.
        label: label map, None for cases without.
        any_foreground: every label value but 0 means 1.
        spacing: voxel size in mm (x, y, z) that replaces the one in the headers.
    """

    image: Path
    label: Path | None = None
    any_foreground: bool = False
    spacing: tuple[float, float, float] | None = None

    @property
    def image_path(self) -> Path:
        """The image."""
        return self.image

    @property
    def label_path(self) -> Path:
        """The label, or the image."""
        return self.label or self.image

    def sources(self) -> tuple[Path, ...]:
        """Image and label, with the files that hold their voxels if those are others."""
        named = self._named()
        return (*named, *(voxels for path in named if (voxels := companion(path)) is not None and voxels.is_file()))

    def _named(self) -> list[Path]:
        return [path for path in (self.image, self.label) if path is not None]

    def check_headers(self) -> Sequence[tuple[Path, Volume]]:
        """Compare the shapes of image and label."""
        image, *labels = _headers(*self._named())
        if len(image.geometry.size) not in (3, 4):
            raise UserError(f"{self.image} has {len(image.geometry.size)} dimensions; 3 or 4 are expected.")
        for label in labels:
            check_same_size(_spatial(image.geometry), label.geometry, self.image, self.label_path)
        return [(self.image, self._respaced(image))]

    def read(self, check: Check) -> Scan:
        """Read voxels where they are to be checked or have to be written anew; stamp the image's grid on the label."""
        image = _read(self.image, check)
        if len(image.geometry.size) == 4 and image.array is None:
            image = read_volume(self.image)
        channels = [self._respaced(channel) for channel in _split_channels(image)]
        if self.spacing is not None:  # the file has the wrong one, so it has to be written anew
            channels = [_with_voxels(channel, self.image) for channel in channels]
        if self.label is None:
            return Scan(channels)
        label = _read(self.label, "full" if self.any_foreground else check)
        label, warnings = on_grid_of(label, channels[0].geometry, self.label)
        if self.any_foreground and label.array is not None and not ((label.array == 0) | (label.array == 1)).all():
            label = Volume(label.geometry, (label.array != 0).astype("uint8"))
        return Scan(channels, label, warnings)

    def _respaced(self, volume: Volume) -> Volume:
        """The volume with the given voxel size, which leaves no doubt about that of its header."""
        if self.spacing is None:
            return volume
        remarks = replace(volume.remarks, doubts=())
        return replace(
            volume, geometry=replace(volume.geometry, spacing=self.spacing), path=None, remarks=remarks, unit=1.0
        )


def _headers(*paths: Path) -> list[Volume]:
    """Read several headers; what is wrong with each of them is said at once."""
    found = []
    problems = []
    for path in paths:
        try:
            found.append(read_header(path))
        except UserError as error:
            problems.append(error)
    if problems:
        raise together(problems)
    return found


def _with_voxels(volume: Volume, path: Path) -> Volume:
    return volume if volume.array is not None else replace(volume, array=read_volume(path).array)


def _read(path: Path, check: Check) -> Volume:
    header = read_header(path)
    return header if check == "headers" and header.path is not None else read_volume(path)


def _spatial(geometry: Geometry) -> Geometry:
    """The grid of one volume of a 4D file."""
    if len(geometry.size) == 3:
        return geometry
    edge = round(len(geometry.direction) ** 0.5)
    direction = [geometry.direction[edge * row + column] for row in range(3) for column in range(3)]
    return Geometry(geometry.size[:3], geometry.spacing[:3], geometry.origin[:3], tuple(direction))


def _split_channels(image: Volume) -> list[Volume]:
    if len(image.geometry.size) == 3:
        return [image]
    assert image.array is not None
    return [replace(image, geometry=_spatial(image.geometry), array=channel, path=None) for channel in image.array]


def on_grid_of(label: Volume, grid: Geometry, path: Path) -> tuple[Volume, tuple[str, ...]]:
    """Give a label map the geometry of its image, voxel for voxel, and say where its own header disagreed.

    Args:
        label: label map; its array may be absent.
        grid: the image's grid, with the same number of voxels.
        path: the label's file, read where the label has to be written anew.

    Returns:
        The label on the grid, still in place where nnU-Net would accept it so, and sentences for the report.
    """
    warnings = header_differences(grid, label, "label header")
    if not label.remarks.fault and grid.same_for_nnunet(label.geometry):
        return label, warnings
    array = read_volume(path).array if label.array is None else label.array
    return Volume(grid, array), warnings


def header_differences(grid: Geometry, label: Volume, subject: str) -> tuple[str, ...]:
    """At most one sentence on where the header of a label, which is not used, disagrees with its image's grid."""
    if label.remarks.fault:
        return (f"{subject} {label.remarks.fault}",)
    differences = grid.differences(label.geometry)
    return (f"{subject} differs from the image's in {'; '.join(differences)}",) if differences else ()
