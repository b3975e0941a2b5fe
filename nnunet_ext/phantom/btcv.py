"""The abdomen as BTCV, in the layouts of Synapse and of its mirrors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from nnunet_ext.phantom.anatomy import BTCV_LABELS, DEFAULT_SHAPE
from nnunet_ext.phantom.layout import Layout, Truth, patients, truth_of, write_image

_ORGANS = [name for name in BTCV_LABELS if name != "background"]
#: Paths of image, label and test image of case n, by variant.
VARIANTS: MappingProxyType[str, tuple[str, str, str]] = MappingProxyType(
    {
        "synapse": (
            "RawData/Training/img/img{n:04d}.nii.gz",
            "RawData/Training/label/label{n:04d}.nii.gz",
            "RawData/Testing/img/img{n:04d}.nii.gz",
        ),
        "nnunet_v1": (
            "RawData/Training/img/img{n:04d}.nii.gz",
            "RawData/Training/label/label{n:04d}.nii.gz",
            "RawData/Test/img/img{n:04d}.nii.gz",
        ),
        "monai": ("imagesTr/img{n:04d}.nii.gz", "labelsTr/label{n:04d}.nii.gz", "imagesTs/img{n:04d}.nii.gz"),
        "abd": ("imagesTr/ABD_{n:03d}.nii.gz", "labelsTr/ABD_{n:03d}.nii.gz", "imagesTs/ABD_{n:03d}.nii.gz"),
    }
)


def write_btcv(
    folder: Path,
    *,
    numbers: Sequence[int] = (1, 2, 21, 35),
    test_numbers: Sequence[int] = (61, 62),
    variant: str = "synapse",
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    seed: int = 0,
) -> Layout:
    """Write images and labels of the 13 organs.

    Args:
        folder: what a user would point the converter at.
        numbers: labelled cases.
        test_numbers: test cases.
        variant: one of :data:`VARIANTS`.
        shape: voxels ``(z, y, x)`` of the first patient; others have some slices more.
        seed: draws the patients.
    """
    image, label, test_image = VARIANTS[variant]
    train: dict[str, Truth] = {}
    test: dict[str, Truth] = {}
    for number, phantom in patients(numbers, shape, seed):
        truth = truth_of(phantom, _ORGANS)
        write_image(folder / image.format(n=number), truth.channels[0], truth)
        write_image(folder / label.format(n=number), truth.label, truth)
        train[f"btcv_{number:04d}"] = truth
    for number, phantom in patients(test_numbers, shape, seed):
        truth = truth_of(phantom, _ORGANS)
        write_image(folder / test_image.format(n=number), truth.channels[0], truth)
        test[f"btcv_{number:04d}"] = truth
    return Layout(folder, train, test)
