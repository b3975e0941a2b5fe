"""The datasets that are fuzzed, as phantoms in official layouts, and how a conversion compares with the truth."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion import btcv, chaos, engine, lits, msd, nih_pancreas, sliver07
from dataset_conversion.options import Options
from dataset_conversion.registry import converter
from nnunet_ext.phantom.btcv import write_btcv
from nnunet_ext.phantom.chaos import write_chaos
from nnunet_ext.phantom.layout import Layout, Truth
from nnunet_ext.phantom.lits import write_lits
from nnunet_ext.phantom.msd import write_msd
from nnunet_ext.phantom.nih_pancreas import write_nih_pancreas
from nnunet_ext.phantom.sliver07 import write_sliver07

SHAPE = (8, 20, 24)


@dataclass(frozen=True)
class Target:
    """A dataset: how its phantom is written, how it is converted, and how its cases are found."""

    write: Callable[[Path], Layout]
    convert: Callable[[Path, Options], Path]
    find: Callable[[Path], engine.Findings]


def _chaos(part: chaos.ChaosPart) -> Target:
    return Target(
        lambda folder: write_chaos(folder, part, numbers=(1, 2), shape=SHAPE),
        converter(f"chaos-{part.lower()}"),
        lambda folder: chaos.find_cases(folder, part),
    )


TARGETS = {
    "msd": Target(
        lambda folder: write_msd(folder, cases=3, shape=SHAPE, apple_double=True),
        converter("msd"),
        msd.find_cases,
    ),
    "nih-pancreas": Target(
        lambda folder: write_nih_pancreas(folder, numbers=(1, 2), shape=SHAPE),
        converter("nih-pancreas"),
        nih_pancreas.find_cases,
    ),
    "sliver07": Target(
        lambda folder: write_sliver07(folder, numbers=(1, 2), shape=SHAPE),
        converter("sliver07"),
        sliver07.find_cases,
    ),
    "lits": Target(
        lambda folder: write_lits(folder, numbers=(0, 1, 2), shape=SHAPE),
        converter("lits"),
        lits.find_cases,
    ),
    "btcv": Target(lambda folder: write_btcv(folder, numbers=(1, 2), shape=SHAPE), converter("btcv"), btcv.find_cases),
    "chaos-ct": _chaos("CT"),
    "chaos-t1dual": _chaos("T1DUAL"),
    "chaos-t2spir": _chaos("T2SPIR"),
}


def write_targets(folder: Path) -> dict[str, Layout]:
    """The phantoms of all datasets."""
    return {name: target.write(folder / name) for name, target in TARGETS.items()}


def differing_cases(dataset: Path, layout: Layout, orientation: bool = True) -> set[str]:
    """Cases of the dataset that are not exactly their truth, and truths that are no case of it.

    Args:
        dataset: folder.
        layout: the truth.
        orientation: compare origins and directions too, besides voxels, labels and voxel sizes.
    """
    content = json.loads((dataset / "dataset.json").read_text())
    listed = content.get("dataset") or {
        path.name.removesuffix(content["file_ending"]): {
            "images": [
                str(image)
                for image in sorted((dataset / "imagesTr").glob(path.name.removesuffix(content["file_ending"]) + "_0*"))
            ],
            "label": str(path),
        }
        for path in (dataset / "labelsTr").iterdir()
    }
    found = {name: ([dataset / p for p in files["images"]], dataset / files["label"]) for name, files in listed.items()}
    tests: dict[str, list[Path]] = {}
    for path in sorted((dataset / "imagesTs").iterdir()):
        tests.setdefault(path.name.removesuffix(content["file_ending"])[:-5], []).append(path)
    truths = {**layout.train, **layout.test}
    wrong = set(truths) ^ (set(found) | set(tests))
    for name, (images, label) in found.items():
        if name in truths and not (
            _equal(images, truths[name].channels, truths[name], orientation)
            and _equal([label], (truths[name].label,), truths[name], orientation)
        ):
            wrong.add(name)
    for name, images in tests.items():
        if name in truths and not _equal(images, truths[name].channels, truths[name], orientation):
            wrong.add(name)
    return wrong


def _equal(paths: list[Path], arrays: tuple[np.ndarray, ...], truth: Truth, orientation: bool) -> bool:
    if len(paths) != len(arrays):
        return False
    for path, array in zip(paths, arrays, strict=True):
        image = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(image)
        if voxels.shape != array.shape or not np.array_equal(voxels, array):
            return False
        if not np.allclose(image.GetSpacing(), truth.spacing[::-1], rtol=1e-5):
            return False
        if not orientation:
            continue
        if not np.allclose(image.GetOrigin(), truth.origin[::-1], atol=1e-3):
            return False
        if not np.allclose(image.GetDirection(), truth.direction, atol=1e-4):
            return False
    return True
