"""Reading and writing volumes: voxels as ``(z, y, x)`` arrays, geometry in SimpleITK's terms.

Geometry is read with SimpleITK because that is what nnU-Net reads NIfTI with. Voxels of NIfTI files are read with
nibabel through a stream that is followed to its end: a truncated or altered ``.nii.gz`` is found by its checksum,
where ITK would return whatever it could decompress.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from isal import igzip
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError

from nnunet_ext.errors import UserError

_GZIP_MAGIC = b"\x1f\x8b"
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG", "MET_DOUBLE"), 8),
}

# Headers that differ by less than this were rounded differently, which is normal.
SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Geometry:
    """Voxel grid in the patient frame; all tuples in SimpleITK's order (x, y, z), millimetres, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def differences(self, other: Geometry) -> list[str]:
        """What differs beyond the rounding of headers, in words; shapes are not compared."""
        found = []
        for name, tolerance in (
            ("spacing", SPACING_TOLERANCE_MM),
            ("origin", ORIGIN_TOLERANCE_MM),
            ("direction", DIRECTION_TOLERANCE),
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                found.append(f"{name} {_short(mine)} against {_short(theirs)}")
        return found

    def same_for_nnunet(self, other: Geometry) -> bool:
        """Whether nnU-Net's integrity check would pass the pair in silence."""
        return all(np.allclose(getattr(self, n), getattr(other, n)) for n in ("spacing", "origin", "direction"))


@dataclass(frozen=True)
class Volume:
    """One channel or one label map.

    Attributes:
        geometry: its grid.
        array: voxels ``(z, y, x)``; None where only the header was read.
        path: a file that nnU-Net can read in place of this volume, None where it has to be written.
    """

    geometry: Geometry
    array: np.ndarray | None = None
    path: Path | None = None


def _short(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v + 0.0:g}" for v in values) + ")"


def is_nifti(path: Path) -> bool:
    """Whether the name ends in .nii or .nii.gz."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def nifti_ending(path: Path) -> str:
    """``.nii.gz`` or ``.nii``."""
    return ".nii.gz" if path.name.lower().endswith(".gz") else ".nii"


def nifti_stem(path: Path) -> str:
    """File name without .nii or .nii.gz."""
    return path.name[: -len(nifti_ending(path))]


def read_header(path: Path) -> Volume:
    """Read the header of an image file.

    A NIfTI file whose axes are not perpendicular, which SimpleITK refuses, comes back with the nearest
    perpendicular axes and without a path: it has to be written anew.

    Raises:
        UserError: the file is no image or is shorter than its header says.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    return _read_header(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=10_000)  # headers are looked at before the work begins and again when a case is read
def _read_header(path: Path, size: int, modified: int) -> Volume:
    if is_nifti(path):
        _check_nifti_length(path)
    elif path.suffix.lower() == ".mhd":
        _check_raw_length(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if is_nifti(path):
            if "orthonormal" in str(error):
                return Volume(_perpendicular_geometry(path))
            _decompressed_length(path)  # names the reason if the file is damaged
        raise UserError(f"{path} cannot be read ({_last_line(error)}).") from error
    geometry = Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    return Volume(geometry, path=path if is_nifti(path) else None)


def _perpendicular_geometry(path: Path) -> Geometry:
    image = _load_nifti(path)
    to_lps = np.diag([-1.0, -1.0, 1.0])
    axes = to_lps @ image.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(axes).all() and spacing.min() > 0 and abs(np.linalg.det(axes / spacing)) > 0.5):
        raise UserError(f"{path} has no usable geometry in its header.")
    u, _, v = np.linalg.svd(axes / spacing)
    return Geometry(
        tuple(int(n) for n in image.shape),
        tuple(spacing.tolist()),
        tuple((to_lps @ image.affine[:3, 3]).tolist()),
        tuple((u @ v).ravel().tolist()),
    )


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def companion(path: Path) -> Path | None:
    """The file that holds the voxels of a MetaImage header; None for other files and where the header names none."""
    name = _meta_header(path).get("ElementDataFile") if path.suffix.lower() == ".mhd" else None
    return None if name is None or name == "LOCAL" else path.with_name(name)


def _meta_header(path: Path) -> dict[str, str]:
    """The ``key = value`` lines of a MetaImage header."""
    lines = (line.partition("=") for line in path.read_bytes()[:65536].decode("latin-1").splitlines())
    return {key.strip(): value.strip() for key, separator, value in lines if separator}


def _check_raw_length(path: Path) -> None:
    """Compare the length of a MetaImage's voxel file with what the header implies; ITK would say little."""
    header, raw = _meta_header(path), companion(path)
    try:
        voxels = math.prod(int(n) for n in header["DimSize"].split())
        needed = voxels * _META_BYTES[header["ElementType"]] * int(header.get("ElementNumberOfChannels", 1))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable MetaImage header ({_last_line(error)}).") from error
    if raw is None:
        raise UserError(f"{path} does not name the file with its voxels.")
    if not raw.is_file():
        raise UserError(f"{path} has its voxels in {raw.name}, which is missing.")
    if header.get("CompressedData", "").lower() != "true" and raw.stat().st_size < needed:
        raise UserError(f"{raw} is truncated: {path.name} promises {needed} bytes and {raw.stat().st_size} are there.")


def _check_nifti_length(path: Path) -> None:
    """Compare the length that the header implies with the file's, without decompressing: gzip notes it at the end."""
    with path.open("rb") as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
    if compressed != (nifti_ending(path) == ".nii.gz"):
        state = "is gzip-compressed" if compressed else "is not gzip-compressed"
        raise UserError(f"{path} {state}, which its name denies; it is damaged or was renamed.")
    needed = _nifti_length(path)
    if not compressed:
        found = path.stat().st_size
    else:
        with path.open("rb") as raw:
            raw.seek(-4, os.SEEK_END)
            (found,) = struct.unpack("<I", raw.read(4))
        if found != needed % 2**32:  # may also be a file of several gzip members, which only decompressing can tell
            found = _decompressed_length(path)
    if found < needed:
        raise UserError(f"{path} is truncated: its header promises {needed} bytes and {found} are there.")


def _load_nifti(path: Path) -> nib.Nifti1Image:
    """Read the header; NIfTI-2 is a kind of NIfTI-1 to nibabel."""
    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise UserError(f"{path} is not a readable NIfTI file ({_last_line(error)}).") from error
    if not isinstance(image, nib.Nifti1Image):
        raise UserError(f"{path} is not a NIfTI file.")
    return image


def _nifti_length(path: Path) -> int:
    """Bytes, decompressed, that a file with this header has."""
    image = _load_nifti(path)
    assert isinstance(image.dataobj, ArrayProxy)
    voxels = math.prod(image.header.get_data_shape())
    return int(image.dataobj.offset) + voxels * image.header.get_data_dtype().itemsize


def _decompressed_length(path: Path) -> int:
    length = 0
    try:
        with igzip.open(path) if nifti_ending(path) == ".nii.gz" else path.open("rb") as stream:
            while chunk := stream.read(1 << 22):
                length += len(chunk)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}).") from error
    return length


def read_volume(path: Path) -> Volume:
    """Read header and voxels of an image file.

    Returns:
        The volume with its array in the file's own type where the header asks for no rescaling, else float32;
        ``(z, y, x)``, or ``(t, z, y, x)`` for a 4D file.

    Raises:
        UserError: the file is damaged, truncated, or no image.
    """
    header = read_header(path)
    if is_nifti(path):
        return replace(header, array=_nifti_voxels(path))
    try:
        return replace(header, array=sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read ({_last_line(error)}).") from error


def _nifti_voxels(path: Path) -> np.ndarray:
    kind = type(_load_nifti(path))
    try:
        with igzip.open(path) if nifti_ending(path) == ".nii.gz" else path.open("rb") as stream:
            image = kind.from_stream(stream)
            voxels = image.dataobj
            assert isinstance(voxels, ArrayProxy)
            unscaled = voxels.slope == 1 and voxels.inter == 0
            array = np.asanyarray(voxels) if unscaled else image.get_fdata(dtype=np.float32, caching="unchanged")
            while stream.read(1 << 20):  # gzip verifies its checksum only at the end
                pass
    except (EOFError, OSError, zlib.error, ValueError, ImageFileError) as error:
        raise UserError(f"{path} is truncated or damaged ({_last_line(error)}).") from error
    return array.T


def write_nifti(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write ``(z, y, x)`` voxels; the file appears under its name only when it is complete.

    Compression is ISA-L's fastest: a few per cent larger than that of ITK, several times faster. The same voxels
    give the same bytes.
    """
    affine = np.eye(4)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = to_ras @ np.reshape(geometry.direction, (3, 3)) @ np.diag(geometry.spacing)
    affine[:3, 3] = to_ras @ np.asarray(geometry.origin)
    image = nib.Nifti1Image(array.T, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with replaced_when_complete(path) as temporary, temporary.open("wb") as raw:
        if nifti_ending(path) == ".nii":
            image.to_stream(raw)
        else:
            with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
                image.to_stream(stream)


@contextmanager
def replaced_when_complete(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to; it takes the name ``path`` if nothing is raised, else it is removed."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
