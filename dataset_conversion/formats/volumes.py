"""Reading and writing volumes: voxels as ``(z, y, x)`` arrays, geometry in SimpleITK's terms.

Geometry is what SimpleITK sees, because nnU-Net reads NIfTI with it; plain NIfTI headers are read without it, which
is a hundred times quicker. Voxels of NIfTI files are read with nibabel through ISA-L's gzip, which verifies checksums:
a truncated or altered ``.nii.gz`` is found, where ITK would return whatever it could decompress.
numpy and imaging libraries are imported where they are used: a conversion that links needs none of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.formats.geometry import DIRECTION_TOLERANCE, Geometry, short
from dataset_conversion.formats.metaimage import check_raw_length
from dataset_conversion.formats.nifti_header import ENOUGH, Affine, NiftiHeader, parse_nifti_header, plain_scaling
from dataset_conversion.remarks import NOTHING, Remarks
from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.core.files import replaced_when_complete
from nnunet_ext.core.nifti_length import promised_length, stored_length

if TYPE_CHECKING:
    import nibabel as nib
    import numpy as np

_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Volume:
    """One channel or one label map.

    Attributes:
        geometry: its grid.
        array: voxels ``(z, y, x)``; None where only the header was read.
        path: a file that nnU-Net can read in place of this volume, None where it has to be written.
        remarks: what its reader has to say of it.
        unit: of the lengths in the file's header, in mm.
    """

    geometry: Geometry
    array: np.ndarray | None = None
    path: Path | None = None
    remarks: Remarks = NOTHING
    unit: float = 1.0


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

    A NIfTI file that SimpleITK refuses or reads otherwise than its header can be understood comes back without a path:
    it has to be written anew. What its header leaves open is in the remarks (:mod:`.nifti_geometry`).

    Raises:
        UserError: the file is no image, is shorter than its header says, or has colours or complex numbers as voxels.
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
        return _questioned_nifti(path)
    if path.suffix.lower() == ".mhd":
        check_raw_length(path)
    return _with_perpendicular_axes(Volume(_seen_by_itk(path)))


def _seen_by_itk(path: Path) -> Geometry:
    """What SimpleITK reads of a header.

    Raises:
        UserError: it refuses the file, or a voxel is not one real number.
    """
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with _silent_itk():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise UserError(f"{path} cannot be read ({last_line(error)}).") from error
    if reader.GetNumberOfComponents() != 1:
        raise UserError(f"{path} {_NOT_ONE_NUMBER.format(sitk.GetPixelIDValueAsString(reader.GetPixelID()))}")
    return Geometry(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())


_NOT_ONE_NUMBER = (
    "has voxels of the type {}, and one real number a voxel is needed: make it a grey image, or the magnitude of a "
    "complex one."
)


@contextmanager
def _silent_itk() -> Iterator[None]:
    """Keep ITK's warnings from the terminal: what matters of them is said in the report."""
    import SimpleITK as sitk

    before = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)


@contextmanager
def _silent_nibabel() -> Iterator[None]:
    """Keep from the terminal what nibabel mends of a header, and numpy's warnings about what is in it."""
    import numpy as np
    from nibabel.imageglobals import logger

    before = logger.disabled
    logger.disabled = True
    try:
        with np.errstate(all="ignore"):
            yield
    finally:
        logger.disabled = before


def _questioned_nifti(path: Path) -> Volume:
    """A NIfTI header that is 4D, of an unusual kind or in question."""
    from dataset_conversion.formats.nifti_geometry import examine, unit_of

    image = _load_nifti(path)
    kind = image.get_data_dtype()
    if kind.kind not in "biuf":
        raise UserError(f"{path} {_NOT_ONE_NUMBER.format('colour' if kind.fields or kind.kind == 'V' else kind)}")
    if len(image.shape) < 3:
        raise UserError(f"{path} has {len(image.shape)} dimensions; 3 or 4 are expected.")
    seen = None
    header = _written_header(path, image)
    if _matrices_are_numbers(header):  # else ITK would write to the terminal and find a grid all the same
        try:
            seen = _seen_by_itk(path)
        except UserError:  # skewed axes, or NIfTI-2
            _decompressed_length(path)  # raises if the reason is that the file is damaged
    geometry, remarks, as_itk_sees = examine(header, seen)
    in_place = (
        as_itk_sees
        and kind.itemsize <= 8
        and len(image.shape) == len(geometry.size)  # else a 3D image stored as 4D
        and plain_scaling(float(header["scl_slope"]), float(header["scl_inter"]))
    )
    return Volume(geometry, None, path if in_place else None, remarks, unit_of(header))


def _written_header(path: Path, image: nib.Nifti1Image) -> nib.Nifti1Header:
    """The header as it is written: nibabel mends voxel sizes and scaling when it loads an image."""
    from isal import igzip

    with igzip.open(path) if nifti_ending(path) == ".nii.gz" else path.open("rb") as stream:
        return image.header_class.from_fileobj(stream, check=False)


def _matrices_are_numbers(header: nib.Nifti1Header) -> bool:
    import numpy as np

    fields = ("pixdim", "quatern_b", "quatern_c", "quatern_d", "srow_x", "srow_y", "srow_z")
    return all(np.isfinite(header[name]).all() for name in fields)


def _with_perpendicular_axes(volume: Volume) -> Volume:
    """Make sure that a grid read from any other format can be used, and written as NIfTI."""
    import numpy as np

    geometry = volume.geometry
    numbers = (*geometry.spacing, *geometry.origin, *geometry.direction)
    if not np.isfinite(numbers).all() or min(geometry.spacing) <= 0:
        reason = f"its voxel size is {short(geometry.spacing)} mm and its origin {short(geometry.origin)}"
        return replace(volume, remarks=Remarks(fault=f"has no usable geometry in its header: {reason}"))
    edge = len(geometry.spacing)
    axes = np.reshape(geometry.direction, (edge, edge))
    cosine = float(np.abs(axes.T @ axes - np.eye(edge)).max())
    if cosine <= DIRECTION_TOLERANCE:
        return volume
    u, _, v = np.linalg.svd(axes)
    note = (
        f"the axes in its header are {np.degrees(np.arcsin(min(1.0, cosine))):.2g} degrees off perpendicular or not of "
        "length 1; the nearest perpendicular ones were taken"
    )
    straight = replace(geometry, direction=tuple((u @ v).ravel().tolist()))
    return replace(volume, geometry=straight, remarks=Remarks(notes=(note,)))


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
        with _silent_nibabel():
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

        if path.suffix.lower() == ".mhd":
            check_raw_length(path)  # again: ITK prints a message of its own where the voxels have gone since
        try:
            with _silent_itk():
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
        opened = igzip.open(path) if nifti_ending(path) == ".nii.gz" else path.open("rb")
        with _silent_nibabel(), opened as stream:
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
