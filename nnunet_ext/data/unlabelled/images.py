"""The unlabelled images of a raw dataset: found by nnU-Net's naming, and compared with the training images.

All of it looks at names, headers and, for copies, some bytes of each file, and so is done before the long work begins.
"""

from __future__ import annotations

import filecmp
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_ext.core.errors import UserError, last_line, together
from nnunet_ext.data.unlabelled.store import RAW_FOLDER

# An image whose voxels are this much larger or smaller than those of every training image has a wrong header.
SPACING_LIMIT = 4.0
# Bytes from the middle of a file by which copies are looked for.
_LOOKED_AT = 1 << 16
# Training images that are read where the reader gives no header without the whole image.
_SAMPLE = 3
_SHOWN = 5


@dataclass(frozen=True)
class Header:
    """What must agree with the training images.

    Attributes:
        spacing: voxel size per spatial axis of the file, of the patient where nnU-Net's reader reorients the image; its
            length is the dimension.
        orientation: the patient axis that each axis of the file runs along, such as "RAS"; empty where nnU-Net's
            reader reorients the image or the format says nothing.
        channels: images in the file: the colours of a photograph, the fourth dimension of a NIfTI file.
    """

    spacing: tuple[float, ...]
    orientation: str
    channels: int = 1


def find_images(
    folder: Path, file_ending: str, channels: int, training_cases: Collection[str]
) -> dict[str, list[Path]]:
    """Files of every unlabelled case, channel by channel.

    Args:
        folder: ``imagesUn`` of a raw dataset.
        file_ending: of dataset.json.
        channels: files of a case.
        training_cases: names that are taken.

    Raises:
        UserError: there are none, a file has another name or ending, a channel is missing, or a name is taken; all of
            them are listed.
    """
    pattern = _name_pattern(file_ending)
    found: dict[str, dict[int, Path]] = {}
    problems = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.name.startswith("."):  # what file managers leave behind
            continue
        if file_ending.startswith(".tif") and file.suffix == ".json":  # the voxel size, which nnU-Net keeps beside
            continue
        match = pattern.fullmatch(file.name)
        if match is None:
            problems.append(
                f"{file} is not named CASE_0000{file_ending}, as the images of this dataset are: rename or convert, or "
                f"take out of {RAW_FOLDER}."
            )
        else:
            found.setdefault(match["case"], {})[int(match["channel"])] = file
    if not found and not problems:
        raise UserError(f"There are no unlabelled images: put them into {folder} as CASE_0000{file_ending}.")
    for case, files in found.items():
        lacking = [channel for channel in range(channels) if channel not in files]
        if lacking or len(files) > channels:
            wrong = f"has no channel {lacking[0]:04d}" if lacking else f"has {len(files)} channels"
            problems.append(
                f"{case} in {folder} {wrong}, where the training images have {channels}: mend it or take it out."
            )
        if case in training_cases:
            problems.append(
                f"{case} in {folder} is the name of a training case: rename it, or take it out if it is the same image."
            )
    if problems:
        raise together(problems)
    return {case: [files[channel] for channel in sorted(files)] for case, files in found.items()}


def _name_pattern(file_ending: str) -> re.Pattern[str]:
    return re.compile(rf"(?P<case>[^.].*)_(?P<channel>\d{{4}}){re.escape(file_ending)}")


def cases_in(folder: Path, file_ending: str) -> set[str]:
    """Cases of which a folder holds files, by their names alone; none if it is not there or not to be read."""
    pattern = _name_pattern(file_ending)
    try:
        matches = [pattern.fullmatch(file.name) for file in folder.iterdir()]
    except OSError:
        return set()
    return {match["case"] for match in matches if match}


def check_no_copies(images: Mapping[str, Sequence[Path]], training: Mapping[str, Sequence[Path]]) -> None:
    """Find unlabelled images that are training images under another name.

    Trained on as if it had no label, such an image would also be known to the fold that validates on it. Files are
    compared byte by byte, channel by channel: the same voxels stored anew are not found.

    Args:
        images: files by case.
        training: files of the training images, by case.

    Raises:
        UserError: there is one, or a file cannot be read.
    """
    looks: dict[tuple[tuple[int, bytes], ...], Sequence[Path]] = {}
    for files in training.values():
        looks[tuple(map(_look, files))] = files
    for files in images.values():
        known = looks.get(tuple(map(_look, files)), ())
        if known and all(filecmp.cmp(file, other, shallow=False) for file, other in zip(files, known, strict=True)):
            raise UserError(f"{files[0]} is the training image {known[0]} under another name: take it out.")


def _look(file: Path) -> tuple[int, bytes]:
    """Size of a file and some bytes from its middle, by which files that are not the same are soon told apart."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            stream.seek(max(0, size // 2 - _LOOKED_AT // 2))
            return size, stream.read(_LOOKED_AT)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): replace it or take it out.") from error


def check_images(
    images: Mapping[str, Sequence[Path]],
    training: Mapping[str, Sequence[Path]],
    reader: type,
    channels: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Compare the headers of unlabelled images with those of the training images.

    Args:
        images: files by case.
        training: files of the training images, by case.
        reader: nnU-Net's reader of the dataset.
        channels: of a case, those that dataset.json names.
        progress: is told how many cases of how many are read.

    Raises:
        UserError: files cannot be read, or their dimension, orientation, spacing or number of channels does not fit;
            all of them are looked at before.
    """
    compared = list(training.values())
    if not _has_headers(reader) and len(compared) > _SAMPLE:
        compared = [compared[i] for i in np.linspace(0, len(compared) - 1, _SAMPLE).astype(int)]
    total = len(compared) + len(images)
    known = []
    for files in compared:
        known.append(read_header(files[0], reader))
        progress(len(known), total)
    problems = []
    for done, (case, files) in enumerate(images.items(), len(known) + 1):
        try:
            _check_case(case, files, reader, channels, known)
        except UserError as error:
            problems.append(str(error))
        progress(done, total)
    if problems:
        more = f" {len(problems) - _SHOWN} more images do not fit either." if len(problems) > _SHOWN else ""
        raise UserError(" ".join(problems[:_SHOWN]) + more)


def _check_case(case: str, files: Sequence[Path], reader: type, channels: int, known: Sequence[Header]) -> None:
    """Raise :class:`UserError` if a file of a case cannot be read or does not fit."""
    headers = [read_header(file, reader) for file in files]
    for file, header in zip(files, headers, strict=True):
        _compare(file, header, known)
    found = sum(header.channels for header in headers)
    if found != channels:
        raise UserError(
            f"The files of {case} in {files[0].parent} have {found} channel(s) together, where dataset.json names "
            f"{channels}: convert them or take them out."
        )


def _compare(file: Path, header: Header, known: Sequence[Header]) -> None:
    """Raise :class:`UserError` if a header does not fit those of the training images."""
    dimensions = {len(each.spacing) for each in known}
    orientations = {each.orientation for each in known}
    dimension = len(header.spacing)
    if dimension not in dimensions:
        raise UserError(
            f"{file} has {dimension} dimensions, where the training images have {min(dimensions)}: convert it "
            "or take it out."
        )
    if header.orientation not in orientations:
        raise UserError(
            f"{file} is oriented {header.orientation}, where the training images are "
            f"{' or '.join(sorted(orientations))}, and nnU-Net does not turn images: reorient it or take it "
            "out."
        )
    same = np.array([each.spacing for each in known if len(each.spacing) == dimension])
    spacing = np.array(header.spacing)
    if (spacing * SPACING_LIMIT < same.min(0)).any() or (spacing > same.max(0) * SPACING_LIMIT).any():
        shown, low, high = (" x ".join(f"{s:.3g}" for s in each) for each in (spacing, same.min(0), same.max(0)))
        raise UserError(
            f"{file} has voxels of {shown} mm, where the training images have {low} to {high} mm: mend its "
            "header or take it out."
        )


def read_header(file: Path, reader: type) -> Header:
    """Header of an image as nnU-Net's reader will see it.

    Raises:
        UserError: the file cannot be read.
    """
    reorients = reader.__name__.endswith("WithReorient")
    try:
        if reader.__name__.startswith("SimpleITKIO"):
            return _itk_header(file, reorients)
        if reader.__name__.startswith("NibabelIO"):
            return _nibabel_header(file, reorients)
        image, properties = reader().read_images([str(file)])
        return Header(tuple(map(float, properties["spacing"]))[-(image.ndim - 1) :], "", len(image))
    except Exception as error:  # whatever the imaging libraries raise for the many ways a file can be damaged
        raise UserError(f"{file} cannot be read ({last_line(error)}): replace it or take it out.") from error


def _has_headers(reader: type) -> bool:
    """Whether :func:`read_header` needs no more of a file than its header."""
    return reader.__name__.startswith(("SimpleITKIO", "NibabelIO"))


def _itk_header(file: Path, reorients: bool) -> Header:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    reader.ReadImageInformation()
    dimension = reader.GetDimension()
    spatial = min(dimension, 3)
    channels = reader.GetNumberOfComponents() * (reader.GetSize()[3] if dimension > 3 else 1)
    directions = np.array(reader.GetDirection()).reshape(dimension, dimension)[:spatial, :spatial]
    if spatial == 3:
        directions = directions * [[-1], [-1], [1]]  # ITK counts to the left and back, NIfTI to the right and front
    return _header(reader.GetSpacing()[:spatial], directions, channels, reorients)


def _nibabel_header(file: Path, reorients: bool) -> Header:
    import nibabel as nib

    image: nib.Nifti1Image = nib.load(file)  # type: ignore[assignment]
    if image.ndim != 3:
        raise ValueError(f"it has {image.ndim} dimensions, where nnU-Net's reader of this dataset takes 3")
    assert image.affine is not None
    return _header(image.header.get_zooms(), image.affine[:3, :3], 1, reorients)


def _header(spacing: Sequence[float], directions: np.ndarray, channels: int, reorients: bool) -> Header:
    """Header from the voxel sizes (D) and directions (D, D) of a file."""
    sizes = tuple(map(float, spacing))
    if not reorients:
        return Header(sizes, _orientation(directions), channels)
    nearest = np.abs(directions).argmax(0).tolist()
    if len(set(nearest)) == len(nearest):  # else the image lies too obliquely to say which axis becomes which
        sizes = tuple(sizes[nearest.index(axis)] for axis in range(len(nearest)))
    return Header(sizes, "", channels)


def _orientation(directions: np.ndarray) -> str:
    """Where each axis of an image runs to, such as "RAS", from its directions (D, D) in the columns."""
    import nibabel as nib

    affine = np.eye(4)
    affine[: len(directions), : len(directions)] = directions
    return "".join(code or "?" for code in nib.aff2axcodes(affine))[: len(directions)]
