"""Reading label maps the way nnU-Net does, as integers and with their geometry.

Where nnU-Net would read with SimpleITK or nibabel, the file is read directly into its own integer type: nnU-Net's
readers go by way of float32 or float64, four to eight times the memory. All other formats go through nnU-Net's readers.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.core.label_sets import LABEL_ROUNDING
from nnunet_ext.core.nifti_length import check_complete
from nnunet_ext.core.nifti_values import is_nifti, nifti_not_finite

# Headers of one image written by different tools differ in the last digits of float32.
_RELATIVE_TOLERANCE = 1e-3
# What a body scan has; a header that says anything else has most likely another unit than it says.
_VOXEL_MM = (0.05, 20.0)


@dataclass(frozen=True)
class LabelMap:
    """A label map and where it lies.

    Attributes:
        array: Unsigned integers of shape (z, y, x); 2D files have shape (1, y, x).
        spacing: Voxel size in mm along the axes of ``array``.
        affine: From voxel (x, y, z) to mm, the patient's left, back and head up, a row per axis: d * (d + 1) numbers
            for d dimensions, whatever reader they come from; empty for formats without (png, tif).
        flat: Whether the file is a 2D image, whose first axis has no thickness.
        reader: nnU-Net's reader that opened it.
        remark: What is odd about its header, empty if nothing.
    """

    array: npt.NDArray[np.unsignedinteger[Any]]
    spacing: tuple[float, ...]
    affine: tuple[float, ...]
    flat: bool
    reader: type
    remark: str = ""


_Read = tuple[np.ndarray, tuple[float, ...], tuple[float, ...], bool]


class UnreadableError(Exception):
    """A file that cannot be read as a label map; the message names it."""


@dataclass(frozen=True)
class Readers:
    """The readers of a dataset. Each file is opened by the first that can, so that no file decides for another.

    Attributes:
        file_ending: Of the dataset.
        named: The one that ``dataset.json`` names, for files of that ending.
    """

    file_ending: str
    named: type | None = None

    def of(self, path: Path) -> list[type]:
        """The readers to try for a file, the first first; none for a format that nnU-Net does not read."""
        if self.named is not None and path.name.endswith(self.file_ending):
            return [self.named]
        return _candidates(known_ending(path.name))


def find_readers(dataset_json: Mapping[str, Any]) -> Readers:
    """nnU-Net's readers for a dataset.

    Args:
        dataset_json: Content of ``dataset.json``.

    Raises:
        UserError: If nnU-Net knows no reader for the file ending, or not the one that is named.
    """
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    ending = str(dataset_json["file_ending"])
    named = dataset_json.get("overwrite_image_reader_writer", "None")
    if named not in {None, "None"}:
        try:
            return Readers(ending, recursive_find_reader_writer_by_name(named))
        except (RuntimeError, TypeError) as error:
            raise UserError(f"dataset.json names the reader {named}, which nnU-Net does not have") from error
    if not _candidates(ending.lower()):
        raise UserError(f"nnU-Net reads no files that end in {ending!r}; mend file_ending in dataset.json")
    return Readers(ending)


def known_ending(name: str) -> str:
    """The ending of a file name, in small letters, if it is that of a format that nnU-Net reads; else nothing."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    endings = {ending for candidate in LIST_OF_IO_CLASSES for ending in candidate.supported_file_endings}
    return max((ending for ending in endings if name.lower().endswith(ending)), key=len, default="")


def _candidates(ending: str) -> list[type]:
    """nnU-Net's readers of a format but those that turn images: these are used only where they are named."""
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    return [
        candidate
        for candidate in LIST_OF_IO_CLASSES
        if ending in candidate.supported_file_endings and not candidate.__name__.endswith("WithReorient")
    ]


def read_label_map(path: Path, readers: Readers) -> LabelMap:
    """Read a label map by the first reader that can.

    Args:
        path: The file.
        readers: See :func:`find_readers`.

    Raises:
        UnreadableError: If the file is broken or holds anything but non-negative integers.
    """
    problems = []
    try:
        _check_there(path)
        with _libraries_silent():
            check_complete(path)
            for reader in readers.of(path):
                try:
                    array, spacing, affine, flat = _FAST.get(reader.__name__, partial(_read_nnunet, reader))(path)
                    break
                except Exception as error:  # another reader may take what this one refuses
                    problems.append(error)
            else:
                raise problems[0] if problems else ValueError("nnU-Net reads no files of this format")
            labels = _as_labels(array)
            spacing = tuple(float(abs(s)) for s in spacing)
            _check_geometry(labels.shape, spacing, affine)
            return LabelMap(labels, spacing, affine, flat, reader, _remark(path, spacing[1:] if flat else spacing))
    except MemoryError:
        raise
    except Exception as error:  # whatever a reader throws at a broken file, the user needs the file's name
        raise UnreadableError(f"{path} cannot be read as a label map: {last_line(error)}") from error


def _check_there(path: Path) -> None:
    """Say what keeps a file from being opened, before a library says something else of it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:  # ITK would end the process
        raise ValueError("its path is no text, rename it") from None
    if path.is_symlink() and not path.exists():
        raise ValueError(f"it is a link to {path.readlink()}, which is not there")
    if path.is_dir():
        raise ValueError("it is a folder")
    try:
        with path.open("rb") as stream:
            if not stream.read(1):
                raise ValueError("it is empty")
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error


@contextlib.contextmanager
def _libraries_silent() -> Iterator[None]:
    """ITK and nibabel print what they think of a header, without the name of the file; :func:`_remark` says it."""
    import SimpleITK as sitk

    before, log = sitk.ProcessObject.GetGlobalWarningDisplay(), logging.getLogger("nibabel.global")
    level = log.level
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(before)
        log.setLevel(level)


def _read_simpleitk(path: Path) -> _Read:
    import SimpleITK as sitk

    if is_nifti(path):
        if nifti_not_finite(path):
            raise ValueError("it holds values that are not finite")
        if beside := _read_instead(path):
            raise ValueError(f"ITK would read the voxels of {beside}, which is beside it: take one of them away")
    image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise ValueError(f"it has {image.GetNumberOfComponentsPerPixel()} values in each voxel, such as colours")
    array = sitk.GetArrayFromImage(image)
    dimension = array.ndim
    if dimension == 4 and len(array) == 1:  # a fourth axis of one, as some tools write it
        array, dimension = array[0], 3
    if dimension not in {2, 3}:
        raise ValueError(f"it has {array.ndim} dimensions")
    spacing, origin = image.GetSpacing()[:dimension], image.GetOrigin()[:dimension]
    direction = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:dimension, :dimension]
    affine = _affine(direction * spacing, origin)
    if dimension == 2:
        return array[None], (999 * max(spacing), *spacing[::-1]), affine, True
    return array, tuple(spacing[::-1]), affine, False


def _read_instead(path: Path) -> str:
    """The file whose voxels ITK takes for those of a NIfTI file; empty where it is the file itself.

    The NIfTI library asked for ``case.nii.gz`` reads its header, and then the first of ``case.nii``, ``case.nii.gz``
    that there is.
    """
    plain = path.name[: -len(".gz")] if path.name.lower().endswith(".gz") else ""
    return plain if plain and path.with_name(plain).exists() else ""


def _read_nibabel(path: Path) -> _Read:
    import nibabel

    image: Any = nibabel.load(path)
    shape = image.shape[:3] if image.shape[3:] == (1,) else image.shape
    if len(shape) != 3:
        raise ValueError(f"it has {len(image.shape)} dimensions")
    array = np.asanyarray(image.dataobj).reshape(shape).transpose(2, 1, 0)
    spacing = tuple(float(z) for z in image.header.get_zooms()[2::-1])
    return array, spacing, _from_nifti(image.affine), False


_FAST: Mapping[str, Callable[[Path], _Read]] = {"SimpleITKIO": _read_simpleitk, "NibabelIO": _read_nibabel}


def _read_nnunet(reader: type, path: Path) -> _Read:
    with contextlib.redirect_stdout(io.StringIO()):
        stack, properties = reader().read_seg(str(path))
    if stack.shape[0] != 1:
        raise ValueError(f"it has {stack.shape[0]} channels")
    affine: tuple[float, ...] = ()
    if "sitk_stuff" in properties:
        stuff = properties["sitk_stuff"]
        direction = np.reshape(stuff["direction"], (len(stuff["origin"]),) * 2)
        affine = _affine(direction * stuff["spacing"], stuff["origin"])
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = _from_nifti(stuff.get("reoriented_affine", stuff["original_affine"]))
    return stack[0], tuple(properties["spacing"]), affine, reader.__name__ == "NaturalImage2DIO"


def _affine(matrix: np.ndarray, origin: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.column_stack([matrix, origin]).astype(float).ravel())


def _from_nifti(affine: np.ndarray) -> tuple[float, ...]:
    """NIfTI counts to the right and front, DICOM and ITK to the left and back."""
    turned = np.array(affine, dtype=float)[:3] * [[-1], [-1], [1]]
    return tuple(turned.ravel())


def _check_geometry(shape: tuple[int, ...], spacing: tuple[float, ...], affine: tuple[float, ...]) -> None:
    if 0 in shape:
        raise ValueError("it has no voxels")
    if not all(math.isfinite(s) and s > 0 for s in spacing):
        raise ValueError(f"its header says voxels of {_show(spacing)} mm")
    if not np.isfinite(affine).all():
        raise ValueError("the position in its header is not a number")


def _remark(path: Path, spacing: tuple[float, ...]) -> str:
    """What is odd about a header, though voxels can be read."""
    remarks = []
    if min(spacing) < _VOXEL_MM[0] or max(spacing) > _VOXEL_MM[1]:
        remarks.append(f"voxels of {_show(spacing)} mm are not those of a body scan: is the unit right?")
    if is_nifti(path):
        import nibabel

        header: Any = nibabel.load(path).header
        zooms = np.array(header.get_zooms()[:3], dtype=float)
        # What the file stores; the reader has already chosen.
        stored = [np.linalg.norm(header.get_sform()[:3, :3], axis=0)] if header["sform_code"] > 0 else []
        if any(not np.allclose(s[: len(zooms)], zooms, rtol=_RELATIVE_TOLERANCE) for s in stored):
            remarks.append(f"its header says voxels of {_show(zooms)} mm, its sform {_show(stored[0])} mm")
        if header["sform_code"] > 0 and header["qform_code"] > 0 and not remarks:
            turn = np.abs(header.get_sform()[:3, :3] - header.get_qform()[:3, :3]) / zooms.max()
            shift = np.abs(header.get_sform()[:3, 3] - header.get_qform()[:3, 3]).max()
            if turn.max() > 0.01 or shift > zooms.min():
                remarks.append(f"its sform and qform disagree, by {shift:.3g} mm in the origin")
    return "; ".join(remarks)


def _as_labels(array: np.ndarray) -> npt.NDArray[np.unsignedinteger[Any]]:
    if array.dtype == bool:
        return array.view(np.uint8)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"it holds {array.dtype}, not labels")
    if array.size == 0:
        raise ValueError("it has no voxels")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    if low < -LABEL_ROUNDING:
        raise ValueError(f"it holds the negative value {low}")
    if high > np.iinfo(np.uint32).max:
        raise ValueError(f"it holds the value {high}")
    target = np.uint8 if high < 256 else np.uint16 if high < 65536 else np.uint32
    if np.issubdtype(array.dtype, np.integer):
        return np.ascontiguousarray(array.astype(target, copy=False))
    labels = np.rint(array).astype(target)
    deviation = np.abs(array - labels).max()
    if deviation > LABEL_ROUNDING:
        raise ValueError(f"it holds values that are not whole numbers (off by up to {deviation:.3g})")
    return np.ascontiguousarray(labels)


def geometry_difference(reference: LabelMap, prediction: LabelMap) -> str | None:
    """How the grid of a prediction differs from its reference, or None where it does not.

    Spacing, origin and orientation may differ in the rounding of headers: by a thousandth, of a voxel for the origin.
    """
    shape = shape_difference(reference, prediction)
    if shape:
        return shape
    if not np.allclose(reference.spacing, prediction.spacing, rtol=_RELATIVE_TOLERANCE, atol=0):
        return f"voxels of {_show(prediction.spacing)} mm spacing instead of {_show(reference.spacing)} mm"
    return _position_difference(reference, prediction) if reference.affine and prediction.affine else None


def _position_difference(reference: LabelMap, prediction: LabelMap) -> str | None:
    """How orientation and origin of a grid differ from another's, beyond rounding."""
    if len(reference.affine) != len(prediction.affine):
        return "one is a 2D image, the other a volume of one slice"
    own, other = (np.reshape(m.affine, (-1, m.array.ndim - m.flat + 1)) for m in (reference, prediction))
    sizes = np.linalg.norm(own[:, :-1], axis=0)
    if not np.allclose(own[:, :-1] / sizes, other[:, :-1] / sizes, rtol=0, atol=2 * _RELATIVE_TOLERANCE):
        return "its axes have another orientation"
    tolerance = _RELATIVE_TOLERANCE * max(*reference.spacing[reference.flat :], 1.0)
    if not np.allclose(own[:, -1], other[:, -1], rtol=_RELATIVE_TOLERANCE, atol=tolerance):
        return f"its origin lies {np.linalg.norm(own[:, -1] - other[:, -1]):.3g} mm away"
    return None


def shape_difference(reference: LabelMap, prediction: LabelMap) -> str | None:
    """How the number of voxels of a prediction differs from its reference, or None where it does not."""
    if reference.array.shape == prediction.array.shape:
        return None
    return f"shape {_show(prediction.array.shape)} instead of {_show(reference.array.shape)}"


def _show(values: Iterable[float]) -> str:
    return " x ".join(f"{v:g}" for v in values)
