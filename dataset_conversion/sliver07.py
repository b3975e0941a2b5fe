"""SLIVER07 (MICCAI 2007 liver challenge) to nnU-Net raw format."""

from __future__ import annotations

import re
from pathlib import Path

from dataset_conversion import catalogue
from dataset_conversion.cases import FileCase
from dataset_conversion.engine import Findings
from dataset_conversion.source import files_below
from dataset_conversion.splits import k_folds
from nnunet_ext.core.errors import UserError

_FILE = re.compile(r"liver-(orig|seg)(\d{3})(?:_(?:train|test))?\.(?:mhd|nii|nii\.gz)", re.IGNORECASE)


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
