"""The abdomen as SLIVER07, in the layouts that its zips and mirrors have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nnunet_ext.phantom.anatomy import DEFAULT_SHAPE
from nnunet_ext.phantom.layout import Layout, Truth, patients, truth_of, write_image

#: Folders of training scans, labels and test scans, by variant.
VARIANTS: MappingProxyType[str, tuple[str, str, str]] = MappingProxyType(
    {
        "official": ("scan", "label", "test/scan"),
        "unzipped": ("training-scans/scan", "training-labels/label", "test-scans/scan"),
        "flat": ("training-scans", "training-labels", "test-scans"),
        "one_folder": ("training", "training", "test"),
    }
)


def write_sliver07(
    folder: Path,
    *,
    numbers: Sequence[int] = (1, 2, 3, 4, 5),
    test_numbers: Sequence[int] = (1, 2),
    variant: str = "official",
    file_format: str = "mhd",
    label_value: int = 1,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    seed: int = 0,
) -> Layout:
    """Write scans (int16) and labels (int8) as MetaImage; the test scans reuse the names of training scans.

    Args:
        folder: what a user would point the converter at.
        numbers: training cases.
        test_numbers: test cases.
        variant: one of :data:`VARIANTS`.
        file_format: ``mhd`` (with a .raw beside it), ``nii`` or ``nii.gz``.
        label_value: grey value of the liver; the challenge takes any but zero.
        shape: voxels ``(z, y, x)`` of the first patient; others have some slices more.
        seed: draws the patients.
    """
    scans, labels, tests = VARIANTS[variant]
    train: dict[str, Truth] = {}
    test: dict[str, Truth] = {}
    for number, phantom in patients(numbers, shape, seed):
        truth = truth_of(phantom, ["liver"])
        write_image(folder / scans / f"liver-orig{number:03d}.{file_format}", truth.channels[0], truth)
        label = (truth.label * label_value).astype(np.int8)
        write_image(folder / labels / f"liver-seg{number:03d}.{file_format}", label, truth)
        train[f"sliver07_{number:03d}"] = truth
    for number, phantom in patients(test_numbers, shape, seed + 1):
        truth = truth_of(phantom, ["liver"])
        write_image(folder / tests / f"liver-orig{number:03d}.{file_format}", truth.channels[0], truth)
        test[f"sliver07_test_{number:03d}"] = truth
    return Layout(folder, train, test)
