"""DICOM series as volumes: slices are ordered by their position in the patient, never by name or number.

The distance of slices comes from their positions: SliceThickness is a property of the acquisition and is wrong as a
spacing in every second dataset (3.2 mm for slices 2 mm apart in CHAOS).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk

from dataset_conversion.source import children
from dataset_conversion.volumes import Geometry, Volume
from nnunet_ext.core.errors import UserError

#: Two slices closer than this are the same slice.
SAME_POSITION_MM = 0.01
#: How far distances of neighbouring slices may vary: positions are written with few digits.
UNIFORM_MM = 0.1
UNIFORM_FRACTION = 0.02

_TAGS = [
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
    "InstanceNumber",
    "SeriesInstanceUID",
    "EchoTime",
    "RescaleSlope",
    "RescaleIntercept",
    "SamplesPerPixel",
    "NumberOfFrames",
]


@dataclass(frozen=True)
class Slice:
    """What the header of one DICOM file says.

    Attributes:
        path: the file.
        position: centre of the first voxel, x, y, z in mm (LPS).
        orientation: directions of a row and of a column, 6 numbers.
        pixel_spacing: distance in mm of rows (y) and of columns (x), in this order.
        shape: rows and columns.
        instance: InstanceNumber, if there is one.
        series: SeriesInstanceUID, if there is one.
        echo_time: in ms, for MR.
        rescale: slope and intercept.
    """

    path: Path
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    shape: tuple[int, int]
    instance: int | None
    series: str | None
    echo_time: float | None
    rescale: tuple[float, float]

    @property
    def normal(self) -> np.ndarray:
        """Direction in which slices are stacked."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def is_dicom(path: Path) -> bool:
    """Whether the file is named ``.dcm`` or carries the DICOM mark; series named by UID have no suffix."""
    if path.suffix.lower() == ".dcm":
        return True
    if path.name == "DICOMDIR" or path.stat().st_size < 132:
        return False
    with path.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """DICOM files directly in ``folder``, in the natural order of their names."""
    return tuple(path for path in children(folder) if path.is_file() and is_dicom(path))


def read_slice(path: Path) -> Slice:
    """Read one header.

    Raises:
        UserError: the file is damaged, no single image, or does not say where the slice lies.
    """
    try:
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        frames = int(data.get("NumberOfFrames") or 1) * int(data.get("SamplesPerPixel") or 1)
        result = Slice(
            path,
            tuple(float(v) for v in data.ImagePositionPatient),
            tuple(float(v) for v in data.ImageOrientationPatient),
            tuple(float(v) for v in data.PixelSpacing),
            (int(data.Rows), int(data.Columns)),
            _number(data.get("InstanceNumber"), int),
            str(data.SeriesInstanceUID) if "SeriesInstanceUID" in data else None,
            _number(data.get("EchoTime"), float),
            (float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))),
        )
    except Exception as error:  # pydicom raises whatever a damaged file leads to
        raise UserError(f"{path} is not a usable DICOM slice ({type(error).__name__}: {error}).") from error
    numbers = (*result.position, *result.orientation, *result.pixel_spacing, *result.rescale)
    axes = np.reshape(result.orientation, (2, -1)) if len(result.orientation) == 6 else np.zeros((2, 3))
    if (
        frames != 1
        or (len(result.position), len(result.pixel_spacing)) != (3, 2)
        or not np.isfinite(numbers).all()
        or min(*result.pixel_spacing, *result.shape) <= 0
        or not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3)
    ):
        raise UserError(f"{path} is not a usable DICOM slice (its geometry makes no sense).")
    return result


def _number(value: Any, kind: Callable[[Any], Any]) -> Any:
    return None if value is None or value == "" else kind(value)


def order_by_position(slices: Sequence[Slice], *, one_series: bool) -> list[int]:
    """Find the order of slices along their normal and make sure that they form one regular stack.

    Args:
        slices: headers in any order.
        one_series: also refuse slices of different SeriesInstanceUID; some anonymisers gave each slice its own.

    Returns:
        Indices into ``slices``, ascending along the normal (towards the head for axial slices).

    Raises:
        UserError: slices of several series, duplicate or missing slices, uneven spacing, or a tilted gantry.
    """
    where = slices[0].path.parent
    if len(slices) < 2:
        raise UserError(f"{where} holds a single DICOM slice.")
    _check_uniform(slices, "size", lambda s: s.shape)
    _check_close(slices, "pixel spacing", [s.pixel_spacing for s in slices], 1e-4)
    _check_close(slices, "orientation", [s.orientation for s in slices], 1e-3)
    if one_series:
        _check_uniform(slices, "series", lambda s: s.series)
    heights = np.array([s.position for s in slices]) @ slices[0].normal
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order])
    spacing = float(np.median(steps))
    for index, step in enumerate(steps):
        first, second = slices[order[index]].path, slices[order[index + 1]].path.name
        if step < SAME_POSITION_MM:
            raise UserError(f"{first} and {second} lie at the same position: the slice is there twice.")
        if abs(step - spacing) > max(UNIFORM_MM, UNIFORM_FRACTION * spacing):
            reason = "slices are missing" if step > 1.5 * spacing else "the spacing is not uniform"
            raise UserError(
                f"{first} and {second} are {step:.3g} mm apart and the other slices {spacing:.3g} mm: {reason}."
            )
    track = np.array([slices[i].position for i in order[[0, -1]]])
    sideways = track[1] - track[0] - (heights[order[-1]] - heights[order[0]]) * slices[0].normal
    if np.abs(sideways).max() > max(UNIFORM_MM, 0.01 * float(np.ptp(heights))):
        raise UserError(f"{where} was scanned with a tilted gantry: its slices are shifted against each other.")
    return order.tolist()


def _check_close(slices: Sequence[Slice], what: str, values: Sequence[Sequence[float]], tolerance: float) -> None:
    """Name a slice whose numbers are far from the median of all."""
    deviations = np.abs(np.array(values) - np.median(values, axis=0)).max(axis=1)
    if deviations.max() > tolerance:
        raise _not_one_series(slices[int(deviations.argmax())], what)


def _not_one_series(odd: Slice, what: str) -> UserError:
    return UserError(f"{odd.path} differs in {what} from the other slices of its folder: they are no single series.")


def _check_uniform(slices: Sequence[Slice], what: str, key: Callable[[Slice], Hashable]) -> None:
    """Name a slice that differs from most others."""
    values = [key(s) for s in slices]
    usual = max(set(values), key=values.count)
    for candidate, value in zip(slices, values, strict=True):
        if value != usual:
            raise _not_one_series(candidate, what)


def stack_geometry(ordered: Sequence[Slice]) -> Geometry:
    """The voxel grid of slices in their order along the normal."""
    first, last = ordered[0], ordered[-1]
    distance = float((np.array(last.position) - first.position) @ first.normal) / (len(ordered) - 1)
    axes = np.column_stack([first.orientation[:3], first.orientation[3:], first.normal])
    return Geometry(
        size=(first.shape[1], first.shape[0], len(ordered)),
        # rounded to a nanometre: the mean of steps written with few digits would look odd in every header
        spacing=(first.pixel_spacing[1], first.pixel_spacing[0], round(distance, 6)),
        origin=first.position,
        direction=tuple(axes.ravel().tolist()),
    )


def read_stack(ordered: Sequence[Slice]) -> Volume:
    """Read the voxels of slices in the given order, rescaled (Hounsfield units for CT).

    Holds one volume and one slice in memory.

    Returns:
        ``(z, y, x)`` int16 where all values fit, else float32.

    Raises:
        UserError: a file is truncated or damaged, or slices differ in their rescaling.
    """
    geometry = stack_geometry(ordered)
    whole = all(float(value).is_integer() for s in ordered for value in s.rescale)
    if whole:  # PET and some MR rescale every slice for itself; whole numbers that differ are a mistake
        _check_uniform(ordered, "rescale slope or intercept", lambda s: s.rescale)
    volume = np.empty(geometry.size[::-1], np.int16 if whole else np.float32)
    for index, header in enumerate(ordered):
        plane = _read_plane(header)
        if volume.dtype == np.int16 and not _fits_int16(plane):
            volume = volume.astype(np.float32)
        volume[index] = plane
    return Volume(geometry, volume)


def _fits_int16(plane: np.ndarray) -> bool:
    limits = np.iinfo(np.int16)
    return plane.dtype.kind != "f" and plane.min() >= limits.min and plane.max() <= limits.max


def _read_plane(header: Slice) -> np.ndarray:
    try:
        data = pydicom.dcmread(header.path)
        if data.file_meta.TransferSyntaxUID.is_compressed:
            # GDCM, inside SimpleITK, decodes JPEG, JPEG-LS and JPEG 2000, and rescales
            plane = sitk.GetArrayFromImage(sitk.ReadImage(str(header.path)))[0]
        else:
            slope, intercept = (int(v) if float(v).is_integer() else np.float32(v) for v in header.rescale)
            plane = data.pixel_array.astype(np.int32) * slope + intercept
    except Exception as error:  # pydicom and GDCM raise whatever a damaged file leads to
        raise UserError(f"{header.path} has damaged pixels ({type(error).__name__}: {error}).") from error
    if plane.shape != header.shape:
        raise UserError(f"{header.path} has pixels of shape {plane.shape} instead of {header.shape}.")
    return plane
