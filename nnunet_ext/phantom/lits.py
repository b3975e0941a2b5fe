"""The abdomen as LiTS, in the layouts of its batches and mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import nibabel as nib
import numpy as np

from nnunet_ext.phantom.anatomy import DEFAULT_SHAPE
from nnunet_ext.phantom.layout import Layout, Truth, patients, truth_of, write_image

#: Paths of volume, label and test volume of case n, by variant.
VARIANTS: MappingProxyType[str, tuple[str, str, str]] = MappingProxyType(
    {
        "official": (
            "Training Batch 1/volume-{n}.nii",
            "Training Batch 1/segmentation-{n}.nii",
            "test/test-volume-{n}.nii",
        ),
        "internal_path": (
            "media/nas/01_Datasets/CT/LITS/Training Batch 1/volume-{n}.nii",
            "media/nas/01_Datasets/CT/LITS/Training Batch 1/segmentation-{n}.nii",
            "media/nas/01_Datasets/CT/LITS/Test/test-volume-{n}.nii",
        ),
        "kaggle": ("volume_pt1/volume-{n}.nii", "segmentations/segmentation-{n}.nii", "test/test-volume-{n}.nii"),
        "ct_label": ("ct/volume-{n}.nii", "label/segmentation-{n}.nii", "test/test-volume-{n}.nii"),
        "decathlon": ("imagesTr/liver_{n}.nii.gz", "labelsTr/liver_{n}.nii.gz", "imagesTs/liver_{n}.nii.gz"),
    }
)


def write_lits(
    folder: Path,
    *,
    numbers: Sequence[int] = tuple(range(12)),
    test_numbers: Sequence[int] = (0, 1),
    variant: str = "official",
    lost_spacing: Sequence[int] = (),
    useless_label_header: Sequence[int] = (),
    other_orientation: Sequence[int] = (),
    flip_labels: str = "",
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    seed: int = 0,
) -> Layout:
    """Write volumes and segmentations (1 liver, 2 tumour); every third volume is stored as float64.

    Args:
        folder: what a user would point the converter at.
        numbers: training cases.
        test_numbers: test cases.
        variant: one of :data:`VARIANTS`.
        lost_spacing: cases whose affine is the identity, as those from 3D-IRCADb; their truth has it too.
        useless_label_header: cases whose segmentation has another voxel size and no coded orientation.
        other_orientation: cases stored from left to right, with a header that says so.
        flip_labels: axes among ``zyx`` along which all labels are flipped, which is wrong.
        shape: voxels ``(z, y, x)`` of the first patient; others have some slices more.
        seed: draws the patients.
    """
    volume, segmentation, test_volume = VARIANTS[variant]
    train: dict[str, Truth] = {}
    test: dict[str, Truth] = {}
    for number, phantom in patients(numbers, shape, seed, lesions=True):
        truth = truth_of(phantom, ["liver", "liver_tumour"])
        if number in lost_spacing:
            truth = replace(truth, spacing=(1, 1, 1), origin=(0, 0, 0), direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
        if number in other_orientation:
            truth = _mirrored(truth)
        voxels = truth.channels[0].astype(np.float64) if number % 3 == 2 else truth.channels[0]
        write_image(folder / volume.format(n=number), voxels, truth)
        label = truth.label
        for axis in flip_labels:
            label = np.flip(label, "zyx".index(axis))
        path = folder / segmentation.format(n=number)
        if number in useless_label_header:
            path.parent.mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(label.T, None)
            image.header.set_zooms((1, 1, 5))
            nib.save(image, path)
        else:
            write_image(path, label, truth)
        train[f"lits_{number:03d}"] = truth
    for number, phantom in patients(test_numbers, shape, seed + 1):
        truth = truth_of(phantom, ["liver"])
        write_image(folder / test_volume.format(n=number), truth.channels[0], truth)
        test[f"lits_test_{number:03d}"] = truth
    return Layout(folder, train, test)


def _mirrored(truth: Truth) -> Truth:
    """The same patient with x stored from left to right."""
    z, y, x = truth.origin
    x += (truth.label.shape[2] - 1) * truth.spacing[2]
    return Truth(
        tuple(channel[:, :, ::-1] for channel in truth.channels),
        truth.label[:, :, ::-1],
        truth.spacing,
        (z, y, x),
        (-1, 0, 0, 0, 1, 0, 0, 0, 1),
    )
