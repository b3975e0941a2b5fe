"""The abdomen as NIH Pancreas-CT, in the layouts that its download tools and mirrors produce."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np

from nnunet_ext.phantom.anatomy import DEFAULT_SHAPE
from nnunet_ext.phantom.dicom import write_series
from nnunet_ext.phantom.layout import Layout, Truth, patients, truth_of, write_image

_LABELS = "TCIA_pancreas_labels-02-05-2017"


def _guid(number: int, k: int) -> str:
    return f"{uuid.uuid5(uuid.NAMESPACE_OID, f'{number} {k}')}.dcm"


#: Folder of a patient's slices and name of slice k of case n, by variant.
VARIANTS: MappingProxyType[str, tuple[str, Callable[[int, int], str]]] = MappingProxyType(
    {
        "descriptive": (
            "manifest-1599750808610/Pancreas-CT/PANCREAS_{n:04d}/11-24-2015-PANCREAS{n:04d}-Pancreas-18957/"
            "Pancreas-99667",
            lambda n, k: f"1-{k + 1:03d}.dcm",
        ),
        "zero_based": (
            "manifest-1599750808610/Pancreas-CT/PANCREAS_{n:04d}/11-24-2015-PANCREAS{n:04d}-Pancreas-18957/"
            "Pancreas-99667",
            lambda n, k: f"{k:06d}.dcm",
        ),
        "uid": ("DOI/PANCREAS_{n:04d}/1.2.826.0.1.3680043.2.1125.1/1.2.826.0.1.3680043.2.1125.2", _guid),
        "guid": ("PANCREAS_{n:04d}/02648/59468", _guid),
        "quoted": ('"Pancreas-CT"/"PANCREAS_{n:04d}"/"Pancreas-18957"/"Pancreas-99667"', lambda n, k: f"1-{k + 1}.dcm"),
        "flat": ("Pancreas-CT/PANCREAS_{n:04d}", lambda n, k: f"1-{k + 1:03d}.dcm"),
        "no_suffix": ("Pancreas-CT/PANCREAS_{n:04d}", lambda n, k: f"CT.1.3.12.2.1107.5.1.4.{n}.{k}"),
    }
)


def write_nih_pancreas(
    folder: Path,
    *,
    numbers: Sequence[int] = (1, 2, 3),
    variant: str = "descriptive",
    descending: bool = False,
    flip_labels: str = "",
    extra_labels: Sequence[int] = (25, 70),
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    seed: int = 0,
) -> Layout:
    """Write images and labels below ``folder``.

    Labels are stored as the publishers store them: column, row, slice, under a header whose origin is not the image's.

    Args:
        folder: what a user would point the converter at.
        numbers: patients.
        variant: one of :data:`VARIANTS`, or ``nifti`` (image axes as in DICOM) or ``dcm2niix`` (rows bottom-up).
        descending: InstanceNumber falls from the feet to the head, and with it the order of label slices.
        flip_labels: axes among ``zyx`` along which all labels are flipped, which is wrong.
        extra_labels: numbers of labels without an image; the zip of labels still holds the two withdrawn cases.
        shape: voxels ``(z, y, x)`` of the first patient; others have some slices more.
        seed: draws the patients.
    """
    truths: dict[str, Truth] = {}
    for number, phantom in patients(numbers, shape, seed):
        truth = truth_of(phantom, ["pancreas"])
        _write_scan(folder, number, truth, variant, descending)
        label = truth.label
        for axis in flip_labels:
            label = np.flip(label, "zyx".index(axis))
        _write_label(folder, number, label[::-1] if descending else label, truth)
        truths[f"pancreas_{number:04d}"] = truth
    for number in extra_labels:
        _write_label(folder, number, truth.label, truth)
    return Layout(folder, truths)


def _write_scan(folder: Path, number: int, truth: Truth, variant: str, descending: bool) -> None:
    voxels = truth.channels[0]
    if variant == "nifti":
        write_image(folder / "data" / f"PANCREAS_{number:04d}.nii.gz", voxels, truth)
        return
    if variant == "dcm2niix":
        z, y, x = truth.origin
        y += (voxels.shape[1] - 1) * truth.spacing[1]
        bottom_up = Truth((), truth.label, truth.spacing, (z, y, x), (1, 0, 0, 0, -1, 0, 0, 0, 1))
        write_image(folder / "data" / f"PANCREAS_{number:04d}.nii.gz", voxels[:, ::-1], bottom_up)
        return
    series, name = VARIANTS[variant]
    slices = len(voxels)
    write_series(
        folder / series.format(n=number),
        voxels,
        truth,
        lambda k: name(number, slices - 1 - k if descending else k),
        patient=f"PANCREAS_{number:04d}",
        numbers=lambda k: slices - k if descending else k + 1,
    )


def _write_label(folder: Path, number: int, label: np.ndarray, truth: Truth) -> None:
    dz, dy, dx = truth.spacing
    path = folder / _LABELS / f"label{number:04d}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label.T, np.diag([-dx, -dy, dz, 1.0])), path)
