"""NIH Pancreas-CT (TCIA) to nnU-Net raw format.

Voxel ``[i, j, k]`` of a label file is column i, row j of the k-th slice by InstanceNumber, whatever its header says:
labels are paired with slices in index space, then image and label are put in the order of slice positions together.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from dataset_conversion import catalogue
from dataset_conversion.cases import Case, Scan, header_differences
from dataset_conversion.engine import Findings
from dataset_conversion.formats.dicom import Slice, dicom_files, is_dicom, order_by_position, read_slice, read_stack
from dataset_conversion.formats.geometry import Geometry
from dataset_conversion.formats.volumes import Volume, is_nifti, read_header, read_volume
from dataset_conversion.options import Check
from dataset_conversion.source import files_below
from dataset_conversion.splits import Split, from_blocks
from nnunet_ext.core.errors import UserError

_PATIENT = re.compile(r"PANCREAS_(\d{4})", re.IGNORECASE)
_LABEL = re.compile(r"label(\d{4})\.nii(\.gz)?", re.IGNORECASE)

#: Test blocks of the four folds of Zhou et al. (fixed-point model, OrganSegRSTN) for the 82 cases of their time.
ZHOU_BLOCKS = (range(1, 21), range(21, 41), range(41, 62), range(62, 83))


@dataclass(frozen=True)
class NihCase(Case):
    """One patient.

    Attributes:
        slices: DICOM files of the series, or one NIfTI file that somebody made of it.
        label: NIfTI file.
    """

    slices: tuple[Path, ...]
    label: Path

    @property
    def image_path(self) -> Path:
        """The folder of the series, or the NIfTI file."""
        return self.slices[0] if is_nifti(self.slices[0]) else self.slices[0].parent

    @property
    def label_path(self) -> Path:
        """The label."""
        return self.label

    def sources(self) -> tuple[Path, ...]:
        """Slices and label."""
        return (*self.slices, self.label)

    def check_headers(self) -> Sequence[tuple[Path, Volume]]:
        """Compare the number of DICOM slices with that of the label."""
        size = read_header(self.label).geometry.size
        if is_nifti(self.slices[0]):
            return [(self.slices[0], read_header(self.slices[0]))]
        read_slice(self.slices[0])  # what is no series of single slices is said to be none, not miscounted
        if size[2:] != (len(self.slices),):
            raise UserError(
                f"{self.slices[0].parent} holds {len(self.slices)} DICOM slices and {self.label} has {size[-1]}."
            )
        return []

    def read(self, check: Check) -> Scan:
        """Read image and label and bring both into the order of slice positions."""
        label = read_volume(self.label)
        assert label.array is not None
        voxels = label.array
        if is_nifti(self.slices[0]):
            image = to_lps(read_volume(self.slices[0]))
        else:
            headers = [read_slice(path) for path in self.slices]
            order = order_by_position(headers, one_series=True)
            ordered = [headers[i] for i in order]
            image = read_stack(ordered)
            if _instances_descend(ordered):
                voxels = voxels[::-1]
        if voxels.shape != image.geometry.size[::-1]:
            raise UserError(
                f"{self.label} has shape {voxels.shape} (z, y, x) and its image {self.slices[0]} "
                f"{image.geometry.size[::-1]}."
            )
        warnings = header_differences(image.geometry, label, "label header, which is not used,")
        return Scan([image], Volume(image.geometry, np.ascontiguousarray(voxels)), warnings)


def _instances_descend(ordered: Sequence[Slice]) -> bool:
    """Whether InstanceNumber falls as the position rises; without numbers the label is taken to be in order."""
    numbers = [s.instance for s in ordered]
    known = [n for n in numbers if n is not None]
    if len(known) < len(numbers):
        return False
    steps = np.diff(known)
    if (steps > 0).all():
        return False
    if (steps < 0).all():
        return True
    raise UserError(
        f"{ordered[0].path.parent} has InstanceNumbers that do not follow the slice positions, "
        "so its label cannot be paired with the slices."
    )


def to_lps(volume: Volume) -> Volume:
    """Reorder the axes of a volume to left, posterior, superior: the order of DICOM columns, rows and slices."""
    geometry, array = volume.geometry, volume.array
    assert array is not None
    to_lps_axes = np.reshape(geometry.direction, (3, 3))
    affine = np.eye(4)
    affine[:3, :3] = to_lps_axes @ np.diag(geometry.spacing)
    affine[:3, 3] = geometry.origin
    # nibabel calls any frame RAS: in ours, plus is left, posterior and superior
    image = nib.Nifti1Image(array.T, affine)
    turned = nib.as_closest_canonical(image)
    if turned is image:
        return volume
    spacing = np.linalg.norm(turned.affine[:3, :3], axis=0)
    grid = Geometry(
        tuple(int(n) for n in turned.shape),
        tuple(spacing.tolist()),
        tuple(turned.affine[:3, 3].tolist()),
        tuple((turned.affine[:3, :3] / spacing).ravel().tolist()),
    )
    return replace(volume, geometry=grid, array=np.asanyarray(turned.dataobj).T, path=None)


def find_cases(folder: Path, labels: Path | None = None) -> Findings:
    """Pair patients and labels by their four-digit number.

    A patient without label is among the findings' problems.

    Args:
        folder: images, at any depth.
        labels: folder of the labels, if they are not in ``folder``.

    Returns:
        The findings.

    Raises:
        UserError: nothing was found, or a patient has several series or several labels.
    """
    label_folder = folder if labels is None else labels
    images, found = _find_images(folder), _find_labels(label_folder)
    if not images:
        raise UserError(f"{folder} holds no DICOM files below a folder PANCREAS_0001 and no PANCREAS_0001.nii.gz.")
    if not found:
        raise UserError(f"{label_folder} holds no label0001.nii.gz; the labels are a download of their own.")
    findings = Findings()
    for number in sorted(images.keys() | found.keys()):
        name = f"pancreas_{number:04d}"
        if number in catalogue.NIH_WITHDRAWN:
            findings.skipped[name] = "withdrawn by its publishers: the same scan as case 2, cropped"
        elif number not in images:
            findings.skipped[name] = f"{found[number].name} has no image"
        elif number not in found:
            problem = f"{images[number][0]} has no label: label{number:04d}.nii.gz is missing."
            findings.problems.append(UserError(problem))
        else:
            findings.cases.append(NihCase(name, "Tr", images[number], found[number]))
    findings.note_missing("cases", catalogue.NIH_CASES, sorted(images.keys() & found.keys()))
    findings.split = zhou_split(findings.names("Tr"))
    if findings.split is None:
        findings.notes.append("no folds were written: the cases found are all of one fold of Zhou et al. 2017")
    return findings


def zhou_split(names: Sequence[str]) -> Split | None:
    """The four folds of Zhou et al., blocks of the 82 cases, without the two that were withdrawn later."""
    blocks = [[name for name in names if int(name.rpartition("_")[2]) in block] for block in ZHOU_BLOCKS]
    return from_blocks(
        blocks,
        "the 4 folds of Zhou et al. 2017 (test cases 1-20, 21-40, 41-61, 62-82 of the 82 cases then published), "
        "without the withdrawn cases 25 and 70",
    )


def _find_images(folder: Path) -> dict[int, tuple[Path, ...]]:
    found: dict[int, tuple[Path, ...]] = {}
    series: dict[int, Path] = {}
    for path in files_below(folder):
        number = _patient_number(path, folder)
        if number is None:
            continue
        if is_nifti(path):
            if number in found:
                raise UserError(f"{path} and {found[number][0]} are both images of patient {number:04d}; remove one.")
            found[number] = (path,)
        elif series.get(number) != path.parent and is_dicom(path):
            if number in found:
                raise UserError(
                    f"{path.parent} and {found[number][0].parent} are both images of patient {number:04d}; remove one."
                )
            series[number] = path.parent
            found[number] = dicom_files(path.parent)
    return found


def _patient_number(path: Path, root: Path) -> int | None:
    """The number in the innermost folder or file named after a patient; some retrievers put names in quotes."""
    if _LABEL.fullmatch(path.name):
        return None
    for part in reversed(path.relative_to(root.parent).parts):
        match = _PATIENT.match(part.strip("\"' "))
        if match:
            return int(match[1])
    return None


def _find_labels(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    for path in files_below(folder):
        match = _LABEL.fullmatch(path.name)
        if match is None:
            continue
        number = int(match[1])
        if number in found:
            raise UserError(f"{path} and {found[number]} are both labels of patient {number:04d}; remove one.")
        found[number] = path
    return found
