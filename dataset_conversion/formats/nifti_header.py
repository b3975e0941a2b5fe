"""NIfTI-1 headers, read in a fraction of a millisecond and without importing numpy or an imaging library.

Only headers that leave no question are understood: where orientation fields disagree, are missing or skewed, or the
units are unusual, the answer is None and SimpleITK, through which nnU-Net reads the file, has to say what it sees.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

Affine = tuple[tuple[float, ...], ...]
"""The three upper rows of a 4 x 4 matrix."""

_LENGTH = 348
#: Bytes at the beginning of a file that hold the whole header, even if compression made it longer.
ENOUGH = 4 * _LENGTH
_MILLIMETRE_OR_UNKNOWN = (0, 2)
#: NIfTI's codes of one integer or real number a voxel, of at most 8 bytes; others are colours or complex numbers.
PLAIN_TYPES = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)
_ROUNDING = 1e-4
_SAME_MM = 1e-3


@dataclass(frozen=True)
class NiftiHeader:
    """What matters here of a header.

    Attributes:
        shape: voxels x, y, z and so on, as written.
        file_length: bytes, decompressed, that a file with this header has.
        spacing: voxel size in mm x, y, z.
        affine: voxel indices to mm in the RAS frame; None where it is in question.
    """

    shape: tuple[int, ...]
    file_length: int
    spacing: tuple[float, float, float]
    affine: Affine | None


def parse_nifti_header(content: bytes, compressed: bool) -> NiftiHeader | None:
    """Understand the header of a ``.nii`` or ``.nii.gz`` file.

    Args:
        content: the file's first :data:`ENOUGH` bytes.
        compressed: whether they are gzip-compressed.

    Returns:
        The header, or None if this is not a plain NIfTI-1 file.
    """
    if compressed:
        try:
            content = zlib.decompressobj(31).decompress(content, _LENGTH)
        except zlib.error:
            return None
    if len(content) < _LENGTH or content[344:348] != b"n+1\0":
        return None
    order = "<" if struct.unpack_from("<i", content)[0] == _LENGTH else ">"
    if struct.unpack_from(f"{order}i", content)[0] != _LENGTH:
        return None
    dimensions, *sizes = struct.unpack_from(f"{order}8h", content, 40)
    (bits,) = struct.unpack_from(f"{order}h", content, 72)
    scale, *pixdim = struct.unpack_from(f"{order}8f", content, 76)
    (offset,) = struct.unpack_from(f"{order}f", content, 108)
    spacing = pixdim[:3]
    shape = tuple(sizes[:dimensions]) if 3 <= dimensions <= 7 else ()
    if not shape or min(shape) < 1 or bits < 8 or not offset >= _LENGTH or not _positive(spacing):
        return None
    length = int(offset) + math.prod(shape) * bits // 8
    affine = _affine(content, order, spacing, scale)
    return NiftiHeader(shape, length, (spacing[0], spacing[1], spacing[2]), affine)


def _positive(values: Sequence[float]) -> bool:
    return all(math.isfinite(value) and value > 0 for value in values)


def _affine(content: bytes, order: str, spacing: Sequence[float], scale: float) -> Affine | None:
    """The affine on which all orientation fields that are set agree; None if they do not, or none is set."""
    qform_code, sform_code = struct.unpack_from(f"{order}2h", content, 252)
    (kind,) = struct.unpack_from(f"{order}h", content, 70)
    if content[123] & 7 not in _MILLIMETRE_OR_UNKNOWN or kind not in PLAIN_TYPES:
        return None
    if not plain_scaling(*struct.unpack_from(f"{order}2f", content, 112)):
        return None
    candidates: list[Affine] = []
    if qform_code > 0:
        candidates.append(from_quaternion(struct.unpack_from(f"{order}6f", content, 256), spacing, scale))
    if sform_code > 0:
        rows = struct.unpack_from(f"{order}12f", content, 280)
        candidates.append((rows[:4], rows[4:8], rows[8:]))
    if not candidates or not all(math.isfinite(value) for affine in candidates for row in affine for value in row):
        return None
    chosen = candidates[-1]
    columns = [[row[axis] / spacing[axis] for row in chosen] for axis in range(3)]
    perpendicular = all(
        abs(sum(a * b for a, b in zip(columns[i], columns[j], strict=True)) - (i == j)) < _ROUNDING
        for i in range(3)
        for j in range(i + 1)
    )
    agree = all(
        abs(a - b) < _SAME_MM
        for other in candidates
        for mine, theirs in zip(chosen, other, strict=True)
        for a, b in zip(mine, theirs, strict=True)
    )
    return chosen if perpendicular and agree else None


def plain_scaling(slope: float, intercept: float) -> bool:
    """Whether readers agree on the fields scl_slope and scl_inter: both numbers, or a slope of 0 or NaN alone."""
    if slope == 0 or math.isnan(slope):
        return intercept == 0 or math.isnan(intercept)
    return math.isfinite(slope) and math.isfinite(intercept)


def from_quaternion(values: Sequence[float], spacing: Sequence[float], scale: float) -> Affine:
    """The affine of the qform fields quatern_b, _c, _d and qoffset_x, _y, _z (NIfTI-1 standard, method 2)."""
    b, c, d, *offset = values
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = (
        (a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)),
        (2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)),
        (2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c),
    )
    steps = (spacing[0], spacing[1], -spacing[2] if scale < 0 else spacing[2])
    return tuple(
        (*(value * step for value, step in zip(row, steps, strict=True)), origin)
        for row, origin in zip(rotation, offset, strict=True)
    )
