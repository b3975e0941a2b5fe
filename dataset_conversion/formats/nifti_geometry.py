"""NIfTI headers in question: which of their voxel grids is taken, and what has to be said of it.

A header holds up to three descriptions: voxel sizes (pixdim), a rotation (qform) and a matrix (sform). Where they
agree, :mod:`~dataset_conversion.formats.nifti_header` reads them. Here they disagree, are skewed, missing or no
numbers. What SimpleITK sees is taken where it can be used, as nnU-Net reads the file with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from dataset_conversion.formats.geometry import SPACING_TOLERANCE_MM, Geometry
from dataset_conversion.formats.nifti_header import from_quaternion
from dataset_conversion.plausible import by
from dataset_conversion.remarks import Remarks

if TYPE_CHECKING:
    import nibabel as nib

#: Corners of two grids closer than this lie at the same place: quaternions are written with few digits.
SAME_PLACE_MM = 0.1
#: Cosine between axes from which they are no longer perpendicular; SimpleITK's tolerance.
PERPENDICULAR = 1e-4
_TO_RAS = np.diag([-1.0, -1.0, 1.0])
#: Millimetres of the units that NIfTI codes in the lowest three bits.
UNITS_MM: Mapping[int, float] = {1: 1000.0, 2: 1.0, 3: 0.001}


def unit_of(header: nib.Nifti1Header) -> float:
    """The header's unit of length in mm; millimetres where it names none."""
    return UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)


def examine(header: nib.Nifti1Header, seen: Geometry | None) -> tuple[Geometry, Remarks, bool]:
    """Settle on a voxel grid.

    Args:
        header: as it is written, without what nibabel mends when it loads an image; 3D or more.
        seen: the grid that SimpleITK reads; None where it refuses the file.

    Returns:
        The grid; remarks; and whether SimpleITK reads the same, so that the file can stay in place.
    """
    unit, shape = unit_of(header), header.get_data_shape()
    written = np.asarray(header["pixdim"][1:4], float) * unit
    sizes = np.abs(written)
    has_sizes = bool(np.isfinite(sizes).all() and sizes.min() > 0)
    forms = _forms(header, written, unit)
    usable = {name: form for name, form in forms.items() if _is_usable(form)}
    notes = []
    if not has_sizes:
        if "sform" not in usable:
            return _unusable(shape, f"its voxel size is {by(written)} mm")
        sizes = _lengths(usable["sform"])
        notes.append(f"the voxel size in its header is {by(written)} mm; the sform's, {by(sizes)} mm, was taken")
        usable.pop("qform", None)
    elif written.min() < 0 and "sform" in usable:
        notes.append(f"the voxel size in its header is {by(written)} mm; its sign was ignored")
    for name, form in forms.items():
        if name not in usable and has_sizes:
            if not usable:
                return _unusable(shape, f"its {name} {_flaw(form)}")
            notes.append(f"the {name} in its header {_flaw(form)}; the {next(iter(usable))} was taken")
    if not forms:
        notes.append("its header has no orientation (qform_code and sform_code are 0)")
    doubts = _doubts(sizes, usable)
    if has_sizes and written.min() < 0 and "sform" not in usable:
        doubts = (*doubts, f"has a negative voxel size in its header, {by(written)} mm")
    sound = seen is not None and _is_sound(seen) and len(usable) == len(forms) and written.min() > 0 and has_sizes
    if sound and seen is not None:
        geometry = seen
    else:
        fallback = np.column_stack([np.diag(sizes), np.zeros(3)])
        geometry = nearest_perpendicular(_without_ones(shape), next(iter(usable.values()), fallback), sizes)
    notes += _disagreement(geometry, usable)
    return geometry, Remarks(tuple(notes), doubts), sound


def _forms(header: nib.Nifti1Header, written: np.ndarray, unit: float) -> dict[str, np.ndarray]:
    """The matrices, 3 x 4 in mm, that the header says it has."""
    forms = {}
    if int(header["qform_code"]) > 0:
        numbers = [float(header[f"quatern_{axis}"]) for axis in "bcd"]
        numbers += [float(header[f"qoffset_{axis}"]) * unit for axis in "xyz"]
        forms["qform"] = np.array(from_quaternion(numbers, np.abs(written).tolist(), float(header["pixdim"][0])))
    if int(header["sform_code"]) > 0:
        forms["sform"] = np.array([header[f"srow_{axis}"] for axis in "xyz"], float) * unit
    return forms


def _lengths(form: np.ndarray) -> np.ndarray:
    return np.linalg.norm(form[:, :3], axis=0)


def _is_usable(form: np.ndarray) -> bool:
    if not np.isfinite(form).all() or _lengths(form).min() <= 0:
        return False
    return abs(float(np.linalg.det(form[:, :3] / _lengths(form)))) > 0.5


def _flaw(form: np.ndarray) -> str:
    if not np.isfinite(form).all():
        return "holds values that are no numbers"
    return "has an axis of length 0" if _lengths(form).min() <= 0 else "has axes that nearly coincide"


def _unusable(shape: tuple[int, ...], reason: str) -> tuple[Geometry, Remarks, bool]:
    size = _without_ones(shape)
    identity = Geometry(size, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel().tolist()))
    return identity, Remarks(fault=f"has no usable geometry in its header: {reason}"), False


def _is_sound(geometry: Geometry) -> bool:
    numbers = (*geometry.spacing, *geometry.origin, *geometry.direction)
    return bool(np.isfinite(numbers).all()) and min(geometry.spacing[:3]) > 0


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 3D image may be stored as one of 4 or more dimensions."""
    kept = max([3, *(axis + 1 for axis, n in enumerate(shape) if n > 1)])
    return tuple(int(n) for n in shape[:kept])


def _doubts(sizes: np.ndarray, usable: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The qform's voxel sizes are pixdim's; the sform has its own."""
    if "sform" not in usable:
        return ()
    others = _lengths(usable["sform"])
    if (np.abs(others - sizes) <= np.maximum(SPACING_TOLERANCE_MM, 1e-3 * sizes)).all():
        return ()
    return (
        f"has two voxel sizes in its header, {by(sizes)} mm (pixdim) and {by(others)} mm (sform), of which nnU-Net "
        "reads the first",
    )


def nearest_perpendicular(shape: tuple[int, ...], form: np.ndarray, sizes: np.ndarray) -> Geometry:
    """The grid whose axes are perpendicular and closest to those of a 3 x 4 matrix in NIfTI's frame."""
    u, _, v = np.linalg.svd(form[:, :3] / _lengths(form))
    # adding 0 makes a negative zero positive
    return Geometry(
        tuple(int(n) for n in shape),
        tuple(sizes.tolist()),
        tuple((_TO_RAS @ form[:, 3] + 0.0).tolist()),
        tuple((_TO_RAS @ u @ v + 0.0).ravel().tolist()),
    )


def _disagreement(taken: Geometry, usable: Mapping[str, np.ndarray]) -> list[str]:
    """Sentences where the matrices disagree with each other, or with perpendicular axes."""
    edge = round(len(taken.direction) ** 0.5)
    axes = np.reshape(taken.direction, (edge, edge))[:3, :3] * np.asarray(taken.spacing[:3])
    grid = _TO_RAS @ np.column_stack([axes, taken.origin[:3]])
    notes, used = [], ""
    if usable:
        used = min(usable, key=lambda name: _apart(grid, usable[name], taken.size))
    if len(usable) == 2:
        apart = _apart(usable["qform"], usable["sform"], taken.size)
        if apart > SAME_PLACE_MM:
            notes.append(f"qform and sform of its header place voxels up to {apart:.3g} mm apart; the {used} was taken")
    for name, form in usable.items():
        cosines = form[:, :3] / _lengths(form)
        cosine = float(np.abs(cosines.T @ cosines - np.eye(3)).max())
        if cosine > PERPENDICULAR:
            moved = _apart(grid, form, taken.size)
            notes.append(
                f"the axes of the {name} in its header are {np.degrees(np.arcsin(cosine)):.2g} degrees off "
                f"perpendicular; {'the nearest perpendicular ones were' if name == used else f'the {used} was'} taken, "
                f"which places voxels up to {moved:.3g} mm elsewhere"
            )
    return notes


def _apart(first: np.ndarray, second: np.ndarray, size: tuple[int, ...]) -> float:
    """Largest distance in mm at the corners of the grid."""
    corners = np.array([[*corner, 1] for corner in product(*((0, n - 1) for n in size[:3]))])
    return float(np.linalg.norm((first - second) @ corners.T, axis=0).max())
