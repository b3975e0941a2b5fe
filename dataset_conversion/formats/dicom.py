"""DICOM series as volumes: slices are ordered by their position in the patient, never by name or number.

The distance of slices comes from their positions: SliceThickness is a property of the acquisition and is wrong as a
spacing in every second dataset (3.2 mm for slices 2 mm apart in CHAOS).
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import UID, CTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dataset_conversion.formats.geometry import Geometry
from dataset_conversion.formats.volumes import Volume
from dataset_conversion.remarks import Remarks
from dataset_conversion.source import children, is_there
from nnunet_ext.core.errors import UserError, last_line

#: Two slices closer than this are the same slice.
SAME_POSITION_MM = 0.01
#: How far distances of neighbouring slices may vary: positions are written with few digits.
UNIFORM_MM = 0.1
UNIFORM_FRACTION = 0.02

_TAGS = [
    "SOPClassUID",
    "Modality",
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
    "PhotometricInterpretation",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
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
        rescale: slope and intercept; None where the file has none.
        is_ct: it says that it is a CT, which must have a rescaling.
    """

    path: Path
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]
    shape: tuple[int, int]
    instance: int | None
    series: str | None
    echo_time: float | None
    rescale: tuple[float, float] | None
    is_ct: bool

    @property
    def normal(self) -> np.ndarray:
        """Direction in which slices are stacked."""
        return np.cross(self.orientation[:3], self.orientation[3:])


def is_dicom(path: Path) -> bool:
    """Whether the file is named ``.dcm`` or carries the DICOM mark; series named by UID have no suffix."""
    if path.suffix.lower() == ".dcm":
        return True
    if path.name == "DICOMDIR" or not path.is_file() or path.stat().st_size < 132:
        return False
    with path.open("rb") as stream:
        stream.seek(128)
        return stream.read(4) == b"DICM"


def dicom_files(folder: Path) -> tuple[Path, ...]:
    """DICOM files directly in ``folder``, in the natural order of their names."""
    return tuple(path for path in children(folder) if is_there(path) and is_dicom(path))


def read_slice(path: Path) -> Slice:
    """Read one header.

    Raises:
        UserError: the file is damaged, no single grey image, or does not say where the slice lies.
    """
    try:
        # also files without the mark "DICM", which old software wrote; what is no DICOM at all has none of the tags
        data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS), force=True)
        _check_single_grey_image(data, path)
        slope, intercept = (_numbers(data, tag, 1, optional=True) for tag in ("RescaleSlope", "RescaleIntercept"))
        result = Slice(
            path,
            _numbers(data, "ImagePositionPatient", 3),
            _numbers(data, "ImageOrientationPatient", 6),
            _numbers(data, "PixelSpacing", 2),
            (int(_numbers(data, "Rows", 1)[0]), int(_numbers(data, "Columns", 1)[0])),
            _number(data.get("InstanceNumber"), int),
            str(data.SeriesInstanceUID) if "SeriesInstanceUID" in data else None,
            _number(data.get("EchoTime"), float),
            (slope[0], intercept[0]) if slope and intercept else None,
            data.get("Modality") == "CT" or data.get("SOPClassUID") == CTImageStorage,
        )
    except UserError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged file leads to
        raise UserError(f"{path} is not a usable DICOM slice ({type(error).__name__}: {last_line(error)}).") from error
    axes = np.reshape(result.orientation, (2, 3))
    slope_is_zero = slope == (0,)
    if (
        min(*result.pixel_spacing, *result.shape) <= 0
        or slope_is_zero
        or not np.allclose(axes @ axes.T, np.eye(2), atol=1e-3)
    ):
        what = "its RescaleSlope is 0" if slope_is_zero else "its geometry makes no sense"
        raise UserError(f"{path} is not a usable DICOM slice ({what}).")
    return result


def _numbers(data: pydicom.Dataset, tag: str, count: int, *, optional: bool = False) -> tuple[float, ...]:
    """The finite numbers of one tag; none where an optional one is missing or empty."""
    value = data.get(tag)
    if value is None or value == "" or (isinstance(value, Sequence) and len(value) == 0):
        if optional:
            return ()
        raise ValueError(f"{tag} is {'empty' if tag in data else 'missing'}")
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{tag} is {value}")
    return numbers


def _check_single_grey_image(data: pydicom.Dataset, path: Path) -> None:
    frames, samples = (int(data.get(tag) or 1) for tag in ("NumberOfFrames", "SamplesPerPixel"))
    kind = data.get("SOPClassUID")
    name = kind.name if isinstance(kind, UID) else "of no known kind"
    if frames > 1 or "Enhanced" in name:
        raise UserError(
            f"{path} is not a usable DICOM slice (it holds {frames} frames, {name}): convert it to one file a slice, "
            "or to NIfTI with dcm2niix."
        )
    colours = data.get("PhotometricInterpretation", "MONOCHROME2")
    if samples != 1 or not str(colours).startswith("MONOCHROME"):
        raise UserError(f"{path} is not a usable DICOM slice (its pixels are colours, {colours}).")


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
    _check_uniform(ordered, "having a rescale slope and intercept", lambda s: s.rescale is not None)
    whole = all(float(value).is_integer() for s in ordered for value in s.rescale or ())
    if whole:  # PET and some MR rescale every slice for itself; whole numbers that differ are a mistake
        _check_uniform(ordered, "rescale slope or intercept", lambda s: s.rescale)
    volume = np.empty(geometry.size[::-1], np.int16 if whole else np.float32)
    for index, header in enumerate(ordered):
        plane = _read_plane(header)
        if volume.dtype == np.int16 and not _fits_int16(plane):
            volume = volume.astype(np.float32)
        volume[index] = plane
    doubts = () if ordered[0].rescale is not None or not ordered[0].is_ct else (_NOT_RESCALED,)
    return Volume(geometry, volume, remarks=Remarks(doubts=doubts))


_NOT_RESCALED = (
    "has CT slices without RescaleSlope and RescaleIntercept, so that nothing says how far their values are from "
    "Hounsfield units, usually 1000 or 1024"
)


def _fits_int16(plane: np.ndarray) -> bool:
    limits = np.iinfo(np.int16)
    return plane.dtype.kind != "f" and plane.min() >= limits.min and plane.max() <= limits.max


def _read_plane(header: Slice) -> np.ndarray:
    """The values of one slice, rescaled."""
    slope, intercept = (int(v) if float(v).is_integer() else np.float32(v) for v in header.rescale or (1, 0))
    try:
        data = pydicom.dcmread(header.path, force=True)
        _settle_transfer_syntax(data, header.path)
        # GDCM, inside SimpleITK, decodes JPEG, JPEG-LS and JPEG 2000
        compressed = data.file_meta.TransferSyntaxUID.is_compressed
        stored = _decode_with_gdcm(data) if compressed else _uncompressed(data, header.path)
        plane = _without_unused_bits(stored, data)
        has_table = "ModalityLUTSequence" in data
        plane = apply_modality_lut(plane, data) if has_table else plane * slope + intercept
    except UserError:
        raise
    except Exception as error:  # pydicom and GDCM raise whatever a damaged file leads to
        raise UserError(f"{header.path} has damaged pixels ({type(error).__name__}: {last_line(error)}).") from error
    if plane.shape != header.shape:
        raise UserError(f"{header.path} has pixels of shape {plane.shape} instead of {header.shape}.")
    return plane


def _uncompressed(data: pydicom.Dataset, path: Path) -> np.ndarray:
    """Stored values of uncompressed pixels.

    Raises:
        UserError: there are more of them than rows and columns make.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        stored: np.ndarray = pixel_array(data, correct_unused_bits=False)
    if any("sufficient to contain" in str(warning.message) for warning in said):
        raise UserError(
            f"{path} holds more pixels than its {data.Rows} rows and {data.Columns} columns, so that one of the two "
            "is wrong."
        )
    return stored


def _settle_transfer_syntax(data: pydicom.Dataset, path: Path) -> None:
    """Some software leaves the transfer syntax out of the file: how the tags are written says what it is.

    Raises:
        UserError: the pixels are compressed, and nothing says how.
    """
    if "TransferSyntaxUID" in data.file_meta:
        return
    if data["PixelData"].is_undefined_length:
        raise UserError(f"{path} has no Transfer Syntax UID, and its pixels are compressed, so that nothing says how.")
    implicit, little = data.original_encoding
    plain = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    data.file_meta.TransferSyntaxUID = plain if little else ExplicitVRBigEndian


def _decode_with_gdcm(data: pydicom.Dataset) -> np.ndarray:
    """Stored values of compressed pixels, with all of their bits.

    GDCM would rescale and, for some syntaxes only, drop bits: it gets the file without the tags that tell it to.
    """
    plain = copy.deepcopy(data)
    for tag in ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"):
        if tag in plain:
            delattr(plain, tag)
    plain.BitsStored, plain.HighBit = data.BitsAllocated, data.BitsAllocated - 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "slice.dcm")
        plain.save_as(path)
        return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0]


def _without_unused_bits(stored: np.ndarray, data: pydicom.Dataset) -> np.ndarray:
    """Stored values as integers, of which only the bits that the header calls stored count (DICOM PS3.5, 8.1.1).

    Old files keep an overlay in the others. A padding value that needs the others, as some scanners have written it,
    becomes the lowest value.
    """
    if stored.dtype.kind == "f":
        return stored
    bits, high = int(data.BitsStored), int(data.get("HighBit", data.BitsStored - 1))
    if not 0 < bits <= high + 1 <= int(data.BitsAllocated):
        raise ValueError(f"BitsStored is {bits}, HighBit {high} and BitsAllocated {data.BitsAllocated}")
    values = stored.astype(np.int64)
    kept = (values >> (high + 1 - bits)) & ((1 << bits) - 1)
    is_signed = int(data.get("PixelRepresentation", 0)) == 1
    if is_signed:
        kept -= (kept >> (bits - 1)) << bits
    padding = data.get("PixelPaddingValue")
    if isinstance(padding, int):
        lowest = -(1 << (bits - 1)) if is_signed else 0
        allocated = (1 << int(data.BitsAllocated)) - 1
        is_padding = (values & allocated) == (padding & allocated)
        if not lowest <= padding < lowest + (1 << bits):
            kept[is_padding] = lowest
    return kept.astype(np.int32)
