"""LiTS (Liver Tumour Segmentation Challenge 2017) to nnU-Net raw format."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dataset_conversion import catalogue
from dataset_conversion.cases import FileCase
from dataset_conversion.engine import Findings
from dataset_conversion.formats.volumes import nifti_ending, read_header
from dataset_conversion.source import files_below
from dataset_conversion.splits import SEED, Split, hold_out
from nnunet_ext.core.errors import UserError

_VOLUME = re.compile(r"(test-)?volume[-_](\d+)\.nii(\.gz)?", re.IGNORECASE)
_LABEL = re.compile(r"(?:segmentation|label)[-_](\d+)\.nii(\.gz)?", re.IGNORECASE)
#: The Decathlon's copy of the same scans.
_MSD_NAME = re.compile(r"liver[-_](\d+)\.nii(\.gz)?", re.IGNORECASE)

#: 100 cases to train, 31 to test, of the 131 labelled ones.
TEST_FRACTION = 31 / 131


def find_cases(
    folder: Path,
    labelled: float = 1.0,
    spacing_csv: Path | None = None,
    test_cases: Path | None = None,
    compressed: bool = False,
) -> Findings:
    """Pair volumes and segmentations by number, and split them.

    A volume without segmentation and the reverse are among the findings' problems.

    Args:
        folder: volumes and segmentations at any depth.
        labelled: fraction of the training part whose labels are used; the others go to ``imagesUn``.
        spacing_csv: true voxel sizes for cases that lost theirs: lines ``case,x,y,z`` in mm.
        test_cases: file with the numbers of the cases to hold out, instead of the seeded choice.
        compressed: the dataset's files are compressed though all images are plain.

    Returns:
        The findings; the dataset's files end as the images do.

    Raises:
        UserError: two files of one number, a spacing or a case to hold out that is not there, or a list that cannot be
            read.
    """
    findings = _pair(folder, {} if spacing_csv is None else read_spacings(spacing_csv))
    _split(findings, labelled, None if test_cases is None else read_numbers(test_cases))
    _note_lost_spacing(findings)
    plain = not compressed and all(nifti_ending(case.image_path) == ".nii" for case in findings.cases)
    findings.dataset = replace(catalogue.LITS.dataset, file_ending=".nii" if plain else ".nii.gz")
    return findings


def _pair(folder: Path, spacings: dict[int, tuple[float, float, float]]) -> Findings:
    volumes: dict[int, Path] = {}
    tests: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    for path in files_below(folder):
        group, number = _classify(path)
        if group is None:
            continue
        target = {"volume": volumes, "test": tests, "label": labels}[group]
        if number in target:
            raise UserError(f"{path} and {target[number]} are both {group} {number}; point at one copy of LiTS.")
        target[number] = path
    findings = Findings()
    for number, path in sorted(volumes.items()):
        if number not in labels:
            findings.problems.append(UserError(f"{path} has no label: segmentation-{number}.nii is missing."))
            continue
        spacing = spacings.get(number)
        findings.cases.append(FileCase(f"lits_{number:03d}", "Tr", path, labels[number], spacing=spacing))
    for number, path in sorted(labels.items()):
        if number not in volumes:
            findings.problems.append(UserError(f"{path} has no image: volume-{number}.nii is missing."))
    for number, path in sorted(tests.items()):
        findings.cases.append(FileCase(f"lits_test_{number:03d}", "Ts", path))
    findings.note_missing("labelled cases", catalogue.LITS_CASES, sorted(volumes))
    unknown = sorted(set(spacings) - set(volumes))
    if unknown:
        raise UserError(f"The table of spacings names case {unknown[0]}, which was not found.")
    return findings


def _classify(path: Path) -> tuple[str | None, int]:
    if match := _VOLUME.fullmatch(path.name):
        return "test" if match[1] else "volume", int(match[2])
    if match := _LABEL.fullmatch(path.name):
        return "label", int(match[1])
    if match := _MSD_NAME.fullmatch(path.name):
        folder = path.parent.name.lower()
        group = "label" if "label" in folder or "seg" in folder else "test" if folder.endswith("ts") else "volume"
        return group, int(match[1])
    return None, 0


def _note_lost_spacing(findings: Findings) -> None:
    """Some cases (those from 3D-IRCADb) were published without their voxel size: every spacing is 1."""
    lost = [
        case.name
        for case in findings.cases
        if isinstance(case, FileCase) and case.spacing is None and _has_unit_spacing(case.image)
    ]
    held_out = findings.split.folds[0]["val"] if findings.split else []
    if lost:
        findings.notes.append(
            f"the voxel size of {len(lost)} case(s) is exactly 1 x 1 x 1 mm, so theirs was lost (known for cases from "
            f"3D-IRCADb); give the true sizes with --spacing-csv, or read millimetres as voxels; "
            f"{len(set(lost) & set(held_out))} of them are held out: {', '.join(lost)}"
        )


def _has_unit_spacing(path: Path) -> bool:
    try:
        return read_header(path).geometry.spacing == (1.0, 1.0, 1.0)
    except UserError:
        return False  # said with all that is wrong, when the headers are checked


def _split(findings: Findings, labelled: float, test_numbers: Sequence[int] | None) -> None:
    """Hold out the test part, and move a part of the training cases to the unlabelled ones."""
    names = findings.names("Tr")
    if test_numbers is None:
        held_out = hold_out(names, round(len(names) * TEST_FRACTION))
        rule = f"{len(held_out)} cases held out as fold 0's validation, drawn with seed {SEED} (no list was published)"
    else:
        held_out = [f"lits_{number:03d}" for number in test_numbers]
        rule = f"{len(held_out)} cases held out as fold 0's validation, as listed by the user"
        missing = [name for name in held_out if name not in names]
        if missing:
            raise UserError(f"The list of test cases names {missing[0]}, which was not found.")
    train = [name for name in names if name not in held_out]
    train = findings.keep_labels(train, labelled)
    if train and held_out:
        findings.split = Split(rule, ({"train": train, "val": held_out},))


def read_spacings(path: Path) -> dict[int, tuple[float, float, float]]:
    """Read lines ``case,x,y,z`` (mm); a header line is skipped.

    Raises:
        UserError: the file cannot be read or a line has another form.
    """
    result = {}
    for index, row in enumerate(csv.reader(_read_text(path).splitlines())):
        if not row or (index == 0 and not row[0].strip().isdigit()):
            continue
        try:
            number, (x, y, z) = int(row[0]), (float(value) for value in row[1:])
        except ValueError as error:
            raise UserError(f"{path}, line {index + 1}: expected case,x,y,z with the voxel size in mm.") from error
        if not (math.isfinite(x + y + z) and min(x, y, z) > 0):
            raise UserError(f"{path}, line {index + 1}: voxel sizes must be positive.")
        result[number] = (x, y, z)
    return result


def read_numbers(path: Path) -> list[int]:
    """Read case numbers separated by blanks, commas or line ends.

    Raises:
        UserError: the file cannot be read, is empty or holds something else.
    """
    words = re.split(r"[\s,;]+", _read_text(path).strip())
    if not all(word.isdigit() for word in words):
        raise UserError(f"{path} does not hold a list of case numbers.")
    return sorted({int(word) for word in words})


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}).") from error
