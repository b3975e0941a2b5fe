"""SLIVER07 (MICCAI 2007 liver challenge) to nnU-Net raw format."""

from __future__ import annotations

import re
from pathlib import Path

from dataset_conversion import catalogue
from dataset_conversion.cases import FileCase
from dataset_conversion.engine import Dataset, Findings, check_target, convert, raw_folder
from dataset_conversion.options import Options
from dataset_conversion.source import files_below, opened
from dataset_conversion.splits import k_folds
from nnunet_ext.core.errors import UserError

_FILE = re.compile(r"liver-(orig|seg)(\d{3})(?:_(?:train|test))?\.(?:mhd|nii|nii\.gz)", re.IGNORECASE)

DATASET = Dataset(
    number=502,
    name="SLIVER07",
    channel_names=("CT",),
    labels={"background": 0, "liver": 1},
    licence=catalogue.SLIVER07.licence,
    reference=catalogue.SLIVER07.url,
)


def convert_sliver07(source: Path, options: Options) -> Path:
    """Convert SLIVER07.

    Args:
        source: folder with scans and labels in any of their layouts, or with the zips.
        options: the user's choices.

    Returns:
        The dataset folder.

    Raises:
        UserError: something is missing, ambiguous or damaged.
    """
    check_target(DATASET, options)  # before archives are unpacked
    with opened(source, raw_folder() / f".unpacked-{source.name}") as (folder, temporary):
        return convert(DATASET, find_cases(folder), options, source=source, source_is_temporary=temporary)


def find_cases(folder: Path) -> Findings:
    """Pair scans and labels by number; test scans have the same file names as training scans.

    A scan is a test scan if its path says so. Numbers alone cannot tell: 1 to 10 exist in both sets.

    A training scan without label and a label without scan are among the findings' problems.

    Raises:
        UserError: two scans of one number in one set.
    """
    scans: dict[tuple[bool, int], Path] = {}
    labels: dict[tuple[bool, int], Path] = {}
    for path in files_below(folder):
        match = _FILE.fullmatch(path.name)
        if match is None:
            continue
        is_label = match[1].lower() == "seg"
        test = not is_label and "test" in str(path.relative_to(folder.parent)).lower().replace("latest", "")
        group = labels if is_label else scans
        key = (test, int(match[2]))
        if key in group:
            raise UserError(
                f"{path} and {group[key]} have the same number; test scans must lie in a folder named after 'test'."
            )
        group[key] = path
    findings = Findings()
    for (test, number), scan in sorted(scans.items()):
        label = labels.pop((False, number), None) if not test else None
        if not test and label is None:
            findings.problems.append(UserError(f"{scan} has no label: liver-seg{number:03d} is missing."))
            continue
        name = f"sliver07_test_{number:03d}" if test else f"sliver07_{number:03d}"
        findings.cases.append(FileCase(name, "Ts" if test else "Tr", scan, label, any_foreground=True))
    for label in labels.values():
        findings.problems.append(UserError(f"{label} has no scan: {label.name.replace('seg', 'orig')} is missing."))
    reused = [number for test, number in scans if test and (False, number) in scans]
    if reused:
        findings.notes.append(
            f"{len(reused)} test scans have the file names of training scans; their folder told them apart"
        )
    findings.note_missing("labelled cases", catalogue.SLIVER07_CASES, [n for test, n in scans if not test])
    findings.split = k_folds(findings.names("Tr"))
    return findings
