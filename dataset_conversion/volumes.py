"""Reading and writing volumes: voxels as ``(z, y, x)`` arrays, geometry in SimpleITK's terms.

Geometry is what SimpleITK sees, because nnU-Net reads NIfTI with it; plain NIfTI headers are read without it, which
is a hundred times quicker. Voxels of NIfTI files are read with nibabel through ISA-L's gzip, which verifies checksums:
a truncated or altered ``.nii.gz`` is found, where ITK would return whatever it could decompress.
numpy and imaging libraries are imported where they are used: a conversion that links needs none of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.metaimage import check_raw_length
from dataset_conversion.nifti_header import ENOUGH, Affine, NiftiHeader, parse_nifti_header
from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.core.files import replaced_when_complete
from nnunet_ext.core.nifti_length import promised_length, stored_length

if TYPE_CHECKING:
    import nibabel as nib
    import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"

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
        found: list[str] = []
        if self == other:  # nearly always, and comparing numbers takes a while
            return found
        import numpy as np

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
        if self == other:
            return True
        import numpy as np

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

    A NIfTI file that SimpleITK refuses, because its axes are not perpendicular or because it is NIfTI-2, comes back
    with the nearest perpendicular axes and without a path: it has to be written anew.

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
        header = _checked_nifti_header(path)
        if header is not None and header.affine is not None and len(header.shape) == 3:
            return Volume(_from_ras(header.shape, header.affine, header.spacing), path=path)
    elif path.suffix.lower() == ".mhd":
        check_raw_length(path)
    return _read_header_with_itk(path)


def _read_header_with_itk(path: Path) -> Volume:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if is_nifti(path):  # skewed axes, or NIfTI-2
            _decompressed_length(path)  # raises if the reason is that the file is damaged
            return Volume(_perpendicular_geometry(path))
        raise UserError(f"{path} cannot be read ({last_line(error)}).") from error
    geometry = Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    in_place = is_nifti(path) and len(_load_nifti(path).shape) == len(geometry.size)  # else a 3D image stored as 4D
    return Volume(geometry, path=path if in_place else None)


def _from_ras(shape: Sequence[int], affine: Affine, spacing: Sequence[float]) -> Geometry:
    """Geometry of an affine that maps voxel indices to millimetres in NIfTI's frame."""
    # Adding 0 makes a negative zero positive.
    lps = [[sign * value + 0.0 for value in row] for sign, row in zip((-1.0, -1.0, 1.0), affine, strict=True)]
    return Geometry(
        tuple(shape),
        tuple(spacing),
        tuple(row[3] for row in lps),
        tuple(row[axis] / spacing[axis] for row in lps for axis in range(3)),
    )


def _perpendicular_geometry(path: Path) -> Geometry:
    import numpy as np

    image = _load_nifti(path)
    axes = image.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not (np.isfinite(image.affine).all() and spacing.min() > 0 and abs(np.linalg.det(axes / spacing)) > 0.5):
        raise UserError(f"{path} has no usable geometry in its header.")
    u, _, v = np.linalg.svd(axes / spacing)
    affine = image.affine.copy()
    affine[:3, :3] = u @ v * spacing
    return _from_ras([int(n) for n in image.shape], affine[:3].tolist(), spacing.tolist())


def _checked_nifti_header(path: Path) -> NiftiHeader | None:
    """Read the header and compare the length it implies with the file's, without decompressing.

    Returns:
        The header; None if only nibabel understands it.
    """
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path} is empty; download or unpack it again.")
    with path.open("rb") as raw:
        beginning = raw.read(ENOUGH)
        raw.seek(max(0, size - 4))
        end = raw.read(4)
    compressed = beginning.startswith(_GZIP_MAGIC)
    if compressed != (nifti_ending(path) == ".nii.gz"):
        state = "is gzip-compressed" if compressed else "is not gzip-compressed"
        raise UserError(f"{path} {state}, which its name denies; it is damaged or was renamed.")
    header = parse_nifti_header(beginning, compressed)
    needed = promised_length(_load_nifti(path)) if header is None else header.file_length
    found = size
    if compressed:
        # gzip notes the length, modulo 2**32, at the end of a member; a file of several members, and a damaged one,
        # has another number there, and only decompressing can tell the two apart
        noted = int.from_bytes(end, "little")
        found = needed if noted == needed % 2**32 else _decompressed_length(path)
    if found < needed:
        raise UserError(f"{path} is truncated: its header promises {needed} bytes and {found} are there.")
    return header


def _load_nifti(path: Path) -> nib.Nifti1Image:
    """Read the header; NIfTI-2 is a kind of NIfTI-1 to nibabel."""
    import nibabel as nib

    try:
        image = nib.load(path)
    except Exception as error:  # nibabel raises many kinds for damaged headers
        raise UserError(f"{path} is not a readable NIfTI file ({last_line(error)}).") from error
    if not isinstance(image, nib.Nifti1Image):
        raise UserError(f"{path} is not a NIfTI file.")
    return image


def _decompressed_length(path: Path) -> int:
    try:
        return stored_length(path)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} is truncated or damaged ({error}).") from error


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
        array = _nifti_voxels(path)
    else:
        import SimpleITK as sitk

        try:
            array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except RuntimeError as error:
            raise UserError(f"{path} cannot be read ({last_line(error)}).") from error
    return replace(header, array=array.reshape(header.geometry.size[::-1]))


def _nifti_voxels(path: Path) -> np.ndarray:
    import numpy as np
    from isal import igzip
    from nibabel.arrayproxy import ArrayProxy
    from nibabel.filebasedimages import ImageFileError

    kind = type(_load_nifti(path))
    try:
        with igzip.open(path) if nifti_ending(path) == ".nii.gz" else path.open("rb") as stream:
            image = kind.from_stream(stream)
            voxels = image.dataobj
            assert isinstance(voxels, ArrayProxy)
            unscaled = voxels.slope == 1 and voxels.inter == 0
            array = np.asanyarray(voxels) if unscaled else image.get_fdata(dtype=np.float32, caching="unchanged")
    except (EOFError, OSError, zlib.error, ValueError, ImageFileError) as error:
        raise UserError(f"{path} is truncated or damaged ({last_line(error)}).") from error
    return array.T


def write_nifti(path: Path, array: np.ndarray, geometry: Geometry) -> None:
    """Write ``(z, y, x)`` voxels; the file appears under its name only when it is complete.

    Compression is ISA-L's fastest: a few per cent larger than that of ITK, several times faster. The same voxels
    give the same bytes.
    """
    import nibabel as nib
    import numpy as np
    from isal import igzip

    affine = np.eye(4)
    to_ras = np.diag([-1.0, -1.0, 1.0])
    affine[:3, :3] = to_ras @ np.reshape(geometry.direction, (3, 3)) @ np.diag(geometry.spacing)
    affine[:3, 3] = to_ras @ np.asarray(geometry.origin)
    image = nib.Nifti1Image(array.T, affine)
    image.header.set_xyzt_units("mm")
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    with replaced_when_complete(path, by_process=True) as temporary, temporary.open("wb") as raw:
        if nifti_ending(path) == ".nii":
            image.to_stream(raw)
        else:
            with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=raw, mtime=0) as stream:
                image.to_stream(stream)
