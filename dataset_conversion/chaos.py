"""CHAOS (CT, MR T1-DUAL, MR T2-SPIR) to nnU-Net raw format.

In CHAOS a mask belongs to the slice that has the same place in the order of file names: CT slices are named from head
to feet, MR slices from feet to head. Masks are therefore paired with slices by name, and the pairs are then put in
the order of slice positions, which is right for either.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from dataset_conversion import catalogue
from dataset_conversion.cases import Case, Scan, SkipCaseError
from dataset_conversion.engine import Findings
from dataset_conversion.formats.dicom import (
    Slice,
    dicom_files,
    order_by_position,
    read_slice,
    read_stack,
    stack_geometry,
)
from dataset_conversion.formats.masks import read_mask
from dataset_conversion.formats.volumes import Volume
from dataset_conversion.options import Check
from dataset_conversion.plausible import by
from dataset_conversion.source import children, folders_in, is_there
from dataset_conversion.splits import k_folds
from nnunet_ext.core.errors import UserError

ChaosPart = Literal["CT", "T1DUAL", "T2SPIR"]
#: Grey values of the MR masks: the value written, and the range in which edges were found to stray.
GREY_RANGES = MappingProxyType({1: (55, 70), 2: (110, 135), 3: (175, 200), 4: (240, 255)})
#: Grey values that only the release of 2019 has; its left kidney (240) would pass for a spleen.
OLD_GREY_VALUES = (80, 160)
#: More mask pixels than this with a grey value of no organ are no stray edges.
STRAY_FRACTION = 0.05
_NUMBERED = re.compile(r"(.*?)(\d+)")
#: Positions of the two phases may differ by this much.
SAME_PLACE_MM = 0.1
#: Test case whose phases were published with different sizes.
_UNEQUAL_PHASES = (35,)


@dataclass(frozen=True)
class ChaosCase(Case):
    """One patient in one sequence.

    Attributes:
        slices: DICOM files in the order of their names, of both phases for T1-DUAL.
        masks: PNG files in the order of their names; empty for test cases.
        part: decides how masks and phases are read.
    """

    slices: tuple[Path, ...]
    masks: tuple[Path, ...]
    part: ChaosPart

    @property
    def image_path(self) -> Path:
        """The folder of the slices, of the first phase for T1-DUAL."""
        return self.slices[0].parent

    @property
    def label_path(self) -> Path:
        """The folder of the masks."""
        return self.masks[0].parent if self.masks else self.image_path

    def sources(self) -> tuple[Path, ...]:
        """Slices and masks."""
        return (*self.slices, *self.masks)

    def check_headers(self) -> Sequence[tuple[Path, Volume]]:
        """Compare the numbers of slices and masks."""
        read_slice(self.slices[0])  # what is no series of single slices is said to be none, not miscounted
        count = len(self.slices) / (2 if self.part == "T1DUAL" else 1)
        if self.masks and count != len(self.masks):
            phases = " of two phases" if self.part == "T1DUAL" else ""
            raise UserError(
                f"{self.slices[0].parent} holds {len(self.slices)} DICOM slices{phases} and "
                f"{self.masks[0].parent} {len(self.masks)} masks."
            )
        return []

    def read(self, check: Check) -> Scan:
        """Read the stack, or both phases, and the masks in the order of slice positions."""
        headers = [read_slice(path) for path in self.slices]
        warnings: list[str] = []
        stacks = _phases(headers, warnings) if self.part == "T1DUAL" else [headers]
        orders = [order_by_position(stack, one_series=False) for stack in stacks]
        ordered = [[stack[i] for i in order] for stack, order in zip(stacks, orders, strict=True)]
        if len(ordered) == 2:
            self._check_same_places(*ordered)
        label = None
        if self.masks:
            _check_names_follow_positions(orders[0], stacks[0])
            _check_mask_names(self.masks, stacks)
            label = self._label([self.masks[i] for i in orders[0]], ordered[0], warnings)
        channels = [read_stack(stack) for stack in ordered]
        if len(channels) == 2:
            channels[1] = replace(channels[1], geometry=channels[0].geometry)
        return Scan(channels, label, tuple(warnings))

    def _check_same_places(self, first: Sequence[Slice], second: Sequence[Slice]) -> None:
        problem = ""
        if len(first) != len(second):
            problem = f"{len(first)} and {len(second)} slices"
        elif first[0].shape != second[0].shape:
            problem = f"slices of {first[0].shape} and {second[0].shape} pixels"
        elif not np.allclose(first[0].pixel_spacing, second[0].pixel_spacing, rtol=1e-3):
            problem = f"pixels of {by(first[0].pixel_spacing)} and {by(second[0].pixel_spacing)} mm"
        elif not np.allclose(first[0].orientation, second[0].orientation, atol=1e-3):
            problem = "slices that are turned against each other"
        else:
            distances = np.abs(np.array([s.position for s in first]) - [s.position for s in second])
            if distances.max() > SAME_PLACE_MM:
                problem = f"slices up to {distances.max():.3g} mm apart"
        if problem and self.subset == "Ts" and int(self.name.rpartition("_")[2]) in _UNEQUAL_PHASES:
            raise SkipCaseError(f"its two phases were published with {problem}")
        if problem:
            raise UserError(f"{first[0].path.parent} and {second[0].path.parent}: the two phases have {problem}.")

    def _label(self, masks: Sequence[Path], slices: Sequence[Slice], warnings: list[str]) -> Volume:
        geometry = stack_geometry(slices)
        label = np.zeros(geometry.size[::-1], np.uint8)
        stray = 0
        for index, (path, header) in enumerate(zip(masks, slices, strict=True)):
            grey = read_mask(path)
            if grey.shape != header.shape:
                raise UserError(f"{path} has {grey.shape} pixels and its slice {header.path.name} {header.shape}.")
            if self.part == "CT":
                label[index] = grey > 0
            else:
                stray += _decode(grey, path, label[index])
        if stray > STRAY_FRACTION * (stray + np.count_nonzero(label)):
            raise UserError(
                f"{masks[0].parent}: {stray} mask pixels have a grey value of no organ and "
                f"{np.count_nonzero(label)} that of one; liver is 63, right kidney 126, left kidney 189, spleen 252."
            )
        if stray:
            warnings.append(f"{stray} mask pixels have a grey value of no organ and became background")
        return Volume(geometry, label)


def _decode(grey: np.ndarray, path: Path, label: np.ndarray) -> int:
    """Write the labels of one MR mask to ``label``; gives the number of pixels with a value of no organ."""
    table = np.zeros(256, np.uint8)
    for value, (low, high) in GREY_RANGES.items():
        table[low : high + 1] = value
    if np.isin(grey, OLD_GREY_VALUES).any():
        raise UserError(
            f"{path} has the grey values of the CHAOS release of 2019 (80, 160, 240, 255), whose left kidney would be "
            "read as spleen; download version 1.03 from https://zenodo.org/records/3431873."
        )
    label[:] = table[grey]
    return int(np.count_nonzero((label == 0) & (grey > 0)))


def _phases(headers: Sequence[Slice], warnings: list[str]) -> list[list[Slice]]:
    """Tell the two phases apart by echo time: in phase is the later echo, about 4.6 against 2.3 ms."""
    folder = headers[0].path.parent
    times = sorted({round(h.echo_time, 2) for h in headers if h.echo_time is not None})
    if len(times) == 2 and all(h.echo_time is not None for h in headers):
        middle = sum(times) / 2
        in_phase = [h for h in headers if h.echo_time is not None and h.echo_time > middle]
        opposed = [h for h in headers if h.echo_time is not None and h.echo_time < middle]
        if any(_folder_phase(h) == "out" for h in in_phase) and any(_folder_phase(h) == "in" for h in opposed):
            warnings.append("the folders InPhase and OutPhase are swapped, going by the echo times")
        return [in_phase, opposed]
    in_phase = [h for h in headers if _folder_phase(h) == "in"]
    opposed = [h for h in headers if _folder_phase(h) == "out"]
    if times or not in_phase or not opposed:
        shown = ", ".join(f"{t:g}" for t in times) or "none"
        raise UserError(f"{folder}: two echo times are expected, one per phase, and found were {shown} ms.")
    warnings.append("the files have no echo times; the folders InPhase and OutPhase were trusted")
    return [in_phase, opposed]


def _folder_phase(header: Slice) -> str:
    name = header.path.parent.name.lower()
    return "in" if name.startswith("in") else "out" if name.startswith(("out", "opp")) else ""


def _check_names_follow_positions(order: Sequence[int], stack: Sequence[Slice]) -> None:
    """Masks are paired by file name; names that jump back and forth mean that files were renamed or mixed."""
    steps = np.diff(order)
    if (steps == 1).all() or (steps == -1).all():
        return
    jump = int(np.flatnonzero((steps != 1) & (steps != -1))[0])
    raise UserError(
        f"{stack[order[jump]].path} and {stack[order[jump + 1]].path.name} are neighbours in space but not by name, "
        "so masks, which belong to slices by name, cannot be trusted."
    )


def _check_mask_names(masks: Sequence[Path], stacks: Sequence[Sequence[Slice]]) -> None:
    """Make sure that no mask is missing, out of place or foreign, as far as names can tell.

    MR masks are named like their slices (of one phase), so the numbers must be the same; CT masks have names of their
    own and must be numbered without a jump.
    """
    prefixes, numbers = _numbered(masks)
    usual = max(set(prefixes), key=prefixes.count)
    for path, prefix in zip(masks, prefixes, strict=True):
        if prefix != usual:
            raise UserError(f"{path} is not named like the other masks, which belong to slices by the order of names.")
    named = [_numbered([header.path for header in stack]) for stack in stacks]
    expected = [slice_numbers for slice_prefixes, slice_numbers in named if set(slice_prefixes) == {usual}]
    if not expected:
        expected = [np.linspace(numbers[0], numbers[-1], len(numbers))]
    if not any(np.array_equal(numbers, candidate) for candidate in expected):
        index = int(np.flatnonzero(numbers != expected[0])[0])
        raise UserError(
            f"{masks[index]} would be paired with {stacks[0][index].path.name}, but by its number it should not: "
            "a mask or a slice is missing or was renamed."
        )


def _numbered(paths: Sequence[Path]) -> tuple[list[str], np.ndarray]:
    """Prefix and trailing number of each file name; where there is none, the whole name and -1."""
    matches = [_NUMBERED.fullmatch(path.stem) for path in paths]
    prefixes = [match[1] if match else path.stem for match, path in zip(matches, paths, strict=True)]
    return prefixes, np.array([int(match[2]) if match else -1 for match in matches])


def find_cases(folder: Path, part: ChaosPart) -> Findings:
    """Find the patients of one part: folders that hold DICOM_anon, labelled ones with Ground beside it.

    A case without slices and a training case without masks are among the findings' problems.

    Raises:
        UserError: no case, or one patient twice.
    """
    known = catalogue.CHAOS_CT_CASES if part == "CT" else catalogue.CHAOS_MR_CASES
    findings = Findings()
    found: dict[int, Path] = {}
    for anon in _folders_named(folder, "DICOM_anon"):
        patient = anon.parent if part == "CT" else anon.parent.parent
        belongs = part == "CT" or anon.parent.name.upper() == part
        if not belongs or not re.fullmatch(r"\d+", patient.name):
            continue
        number = int(patient.name)
        if number in found:
            raise UserError(f"{anon} and {found[number]} are both patient {number}; point at one copy of the dataset.")
        found[number] = anon
        slices = dicom_files(anon)
        if part == "T1DUAL":
            slices += tuple(path for phase in children(anon) if phase.is_dir() for path in dicom_files(phase))
        if not slices:
            findings.problems.append(UserError(f"{anon} holds no DICOM files."))
            continue
        ground = anon.parent / "Ground"
        masks = (
            tuple(p for p in children(ground) if p.suffix.lower() == ".png" and is_there(p)) if ground.is_dir() else ()
        )
        if not masks and (number in known or ground.is_dir()):
            findings.problems.append(UserError(f"{anon} has no label: {ground} holds no PNG masks."))
            continue
        prefix = "chaosct" if part == "CT" else "chaosmr"
        findings.cases.append(ChaosCase(f"{prefix}_{number:03d}", "Tr" if masks else "Ts", slices, masks, part))
    if not found:
        raise UserError(_where_else(folder, part))
    findings.note_missing("labelled cases", known, sorted(found))
    findings.split = k_folds(findings.names("Tr"))
    return findings


def _where_else(folder: Path, part: ChaosPart) -> str:
    """Say which folder to point at in place of one that holds no case of a part."""
    nothing = f"{folder} holds no CHAOS {part} case"
    wanted = "CT" if part == "CT" else "MR"
    # From the folder upwards: what was named may be the other modality, a patient, or a folder inside one.
    for place in (folder.absolute(), *folder.absolute().parents[:4]):
        if place.name.upper() in {"CT", "MR"}:
            sibling = place.with_name(wanted)
            if place.name.upper() != wanted:
                here = f"it lies in the {place.name} part"
            elif place == folder.absolute():
                break
            else:
                here = f"it lies inside {place.name}"
            return f"{nothing}: {here}; point at {sibling if sibling.is_dir() else place.parent}."
    return (
        f"{nothing}: no folder DICOM_anon was found in its place; "
        "point at the folder with Train_Sets, or at its folder CT or MR."
    )


def _folders_named(folder: Path, name: str) -> list[Path]:
    if folder.name == name:
        return [folder]
    return [found for child in folders_in(folder) for found in _folders_named(child, name)]
