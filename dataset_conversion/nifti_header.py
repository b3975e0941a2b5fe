"""NIfTI-1 headers, read in a fraction of a millisecond and without importing an imaging library.

Only headers that leave no question are understood: where orientation fields disagree, are missing or skewed, or the
units are unusual, the answer is None and SimpleITK, through which nnU-Net reads the file, has to say what it sees.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LENGTH = 348
#: Bytes at the beginning of a file that hold the whole header, even if compression made it longer.
ENOUGH = 4 * _LENGTH
_MILLIMETRE_OR_UNKNOWN = (0, 2)
_ROUNDING = 1e-4
_SAME_MM = 1e-3


@dataclass(frozen=True)
class NiftiHeader:
    """What matters here of a header.

    Attributes:
        shape: voxels x, y, z and so on, as written.
        file_length: bytes, decompressed, that a file with this header has.
        spacing: voxel size in mm x, y, z.
        affine: voxel indices to mm in the RAS frame, 4 x 4; None where it is in question.
    """

    shape: tuple[int, ...]
    file_length: int
    spacing: tuple[float, float, float]
    affine: np.ndarray | None


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


def _affine(content: bytes, order: str, spacing: Sequence[float], scale: float) -> np.ndarray | None:
    """The affine on which all orientation fields that are set agree; None if they do not, or none is set."""
    qform_code, sform_code = struct.unpack_from(f"{order}2h", content, 252)
    if content[123] & 7 not in _MILLIMETRE_OR_UNKNOWN:
        return None
    candidates = []
    if qform_code > 0:
        candidates.append(_from_quaternion(struct.unpack_from(f"{order}6f", content, 256), spacing, scale))
    if sform_code > 0:
        rows = np.reshape(struct.unpack_from(f"{order}12f", content, 280), (3, 4))
        candidates.append(np.vstack([rows, [0, 0, 0, 1]]))
    if not candidates or not all(np.isfinite(affine).all() for affine in candidates):
        return None
    chosen = candidates[-1]
    axes = chosen[:3, :3] / spacing
    perpendicular = np.abs(axes.T @ axes - np.eye(3)).max() < _ROUNDING
    agree = all(np.abs(other - chosen).max() < _SAME_MM for other in candidates)
    return chosen if perpendicular and agree else None


def _from_quaternion(values: Sequence[float], spacing: Sequence[float], scale: float) -> np.ndarray:
    """The affine of the qform fields quatern_b, _c, _d and qoffset_x, _y, _z (NIfTI-1 standard, method 2)."""
    b, c, d, *offset = values
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1, 1, -1 if scale < 0 else 1]
    affine[:3, 3] = offset
    return affine
