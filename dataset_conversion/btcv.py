"""BTCV (MICCAI 2015 "Beyond the Cranial Vault", abdomen) to nnU-Net raw format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataset_conversion import catalogue
from dataset_conversion.cases import FileCase
from dataset_conversion.engine import Findings
from dataset_conversion.formats.volumes import nifti_ending
from dataset_conversion.source import files_below
from dataset_conversion.splits import Split, from_blocks
from nnunet_ext.core.errors import UserError

_IMAGE = re.compile(r"(?:img(\d{4})|(?:ABD_)(\d{3})(?:_0000)?)\.nii(\.gz)?", re.IGNORECASE)
_LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?", re.IGNORECASE)
_CERVIX = re.compile(r"\d{7}-(?:Image|Mask)\.nii(\.gz)?", re.IGNORECASE)


def find_cases(folder: Path) -> Findings:
    """Pair images and labels by number.

    An image without label and a label without image are among the findings' problems.

    Raises:
        UserError: no image, two files of one number, or files of another dataset.
    """
    images, labels = _find_files(folder)
    if not images:
        raise UserError(f"{folder} holds no img0001.nii.gz or the like; point at the folder RawData.")
    findings = Findings()
    for number, image in sorted(images.items()):
        label = labels.pop(number, None)
        name = f"btcv_{number:04d}"
        if number in catalogue.BTCV_TEST_CASES:
            if label is not None:
                findings.notes.append(f"{label.name} was left out: test cases were annotated later, by other people")
            findings.cases.append(FileCase(name, "Ts", image))
        elif number not in catalogue.BTCV_CASES:
            findings.problems.append(
                UserError(f"{image} is not of BTCV's abdomen, whose cases are 1-10, 21-40 and 61-80.")
            )
        elif label is None:
            findings.problems.append(UserError(f"{image} has no label: label{number:04d}.nii.gz is missing."))
        else:
            findings.cases.append(FileCase(name, "Tr", image, label))
    for number, label in sorted(labels.items()):
        findings.problems.append(UserError(f"{label} has no image: img{number:04d}.nii.gz is missing."))
    findings.note_missing("labelled cases", catalogue.BTCV_CASES, sorted(images))
    findings.split = block_split(findings.names("Tr"))
    if findings.split is None:
        findings.notes.append("no folds were written: the cases found are all of one block of 6")
    endings = {nifti_ending(path) for case in findings.cases for path in case.sources()}
    findings.dataset = replace(catalogue.BTCV.dataset, file_ending=".nii" if endings == {".nii"} else ".nii.gz")
    return findings


def _find_files(folder: Path) -> tuple[dict[int, Path], dict[int, Path]]:
    """Images and labels by number."""
    images: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    for path in files_below(folder):
        _refuse_foreign(path)
        if match := _LABEL.fullmatch(path.name):
            group, number = labels, int(match[1])
        elif match := _IMAGE.fullmatch(path.name):
            group = labels if path.parent.name.lower().startswith("label") else images
            number = int(match[1] or match[2])
        else:
            continue
        if number in group:
            raise UserError(f"{path} and {group[number]} are both number {number}; point at one copy of the dataset.")
        group[number] = path
    return images, labels


def _refuse_foreign(path: Path) -> None:
    if _CERVIX.fullmatch(path.name) or "cervix" in path.parent.name.lower():
        raise UserError(f"{path} is of BTCV's cervix data, which have other organs; point at the abdomen's RawData.")
    if "regdata" in (part.lower() for part in path.parts):
        raise UserError(f"{path} is of RegData, which are registered pairs; point at RawData.")
    if path.name.lower().endswith((".npz", ".npy.h5", ".h5")):
        raise UserError(
            f"{path} is of the preprocessed copy that TransUNet uses, with 8 organs and other label values; "
            "point at the original RawData."
        )


def block_split(names: Sequence[str]) -> Split | None:
    """Five folds of six consecutive cases; the last one is the 24/6 split of MONAI's examples (validation 35-40)."""
    numbers = catalogue.BTCV_CASES
    blocks = [
        [name for name in names if int(name.rpartition("_")[2]) in numbers[i : i + 6]]
        for i in range(0, len(numbers), 6)
    ]
    rule = "5 folds of 6 consecutive cases (no list was published)"
    if len(names) == len(numbers):
        rule += "; the last fold is the 24/6 split of MONAI's dataset_0.json"
    else:
        rule += f", as far as they are among the {len(names)} cases found"
    return from_blocks(blocks, rule)
