"""DICOM series of a phantom, with the peculiarities that real ones have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from nnunet_ext.phantom.layout import Truth


def write_series(
    folder: Path,
    voxels: np.ndarray,
    truth: Truth,
    name: Callable[[int], str],
    *,
    patient: str,
    numbers: Callable[[int], int] | None = None,
    modality: str = "CT",
    echo_time: float | None = None,
    one_series: bool = True,
    intercept: int = -1000,
) -> list[Path]:
    """Write one DICOM file per slice.

    SliceThickness is 1.6 times the distance of the slices, as real headers often disagree, and the order of files in
    the folder means nothing.

    Args:
        folder: where to; made if needed.
        voxels: ``(z, y, x)`` int16; CT in Hounsfield units.
        truth: gives the grid.
        name: file name of slice k, counted from the feet.
        patient: PatientID.
        numbers: InstanceNumber of slice k; None is k + 1.
        modality: ``CT``, or ``MR``, which has no rescaling.
        echo_time: in ms; None leaves the tag out.
        one_series: give all slices one SeriesInstanceUID; else each has its own.
        intercept: RescaleIntercept of CT images.

    Returns:
        The files, from the feet to the head.
    """
    folder.mkdir(parents=True, exist_ok=True)
    dz, dy, dx = truth.spacing
    z0, y0, x0 = truth.origin
    is_mr = modality == "MR"
    paths = []
    for k, plane in enumerate(voxels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage if is_mr else CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient, str(echo_time), str(folder.name), str(k)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / name(k)
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID = meta.MediaStorageSOPClassUID
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        data.Modality = modality
        data.PatientID = patient
        data.PatientName = patient
        series = [patient, folder.name] if one_series else [patient, folder.name, str(k)]
        data.SeriesInstanceUID = generate_uid(entropy_srcs=series)
        data.InstanceNumber = k + 1 if numbers is None else numbers(k)
        data.ImagePositionPatient = [_decimal(x0), _decimal(y0), _decimal(z0 + k * dz)]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [_decimal(dy), _decimal(dx)]
        data.SliceThickness = _decimal(1.6 * dz)
        if echo_time is not None:
            data.EchoTime = _decimal(echo_time)
        if not is_mr:
            data.RescaleSlope, data.RescaleIntercept = 1, intercept
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.Rows, data.Columns = plane.shape
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        stored = plane.astype(np.int16) - np.int16(0 if is_mr else intercept)
        data.PixelData = stored.astype("<i2").tobytes()
        data.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def change(path: Path, **tags: object) -> None:
    """Set tags of a DICOM file, or delete those given as None."""
    data = pydicom.dcmread(path)
    for keyword, value in tags.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.save_as(path)


def _decimal(value: float) -> str:
    """A DICOM decimal string, at most 16 characters."""
    return f"{value:.6f}"[:16]
