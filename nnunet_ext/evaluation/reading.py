"""Reading label maps the way nnU-Net does, as integers and with their geometry.

Where nnU-Net would read with SimpleITK or nibabel, the file is read directly into its own integer type: nnU-Net's
readers go by way of float32 or float64, four to eight times the memory. All other formats go through nnU-Net's readers.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.core.nifti_length import check_complete

# Headers of one image written by different tools differ in the last digits of float32.
_RELATIVE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class LabelMap:
    """A label map and where it lies.

    Attributes:
        array: Unsigned integers of shape (z, y, x); 2D files have shape (1, y, x).
        spacing: Voxel size in mm along the axes of ``array``.
        affine: Numbers that fix origin and orientation, empty for formats without (png, tif).
        flat: Whether the file is a 2D image, whose first axis has no thickness.
    """

    array: npt.NDArray[np.unsignedinteger[Any]]
    spacing: tuple[float, ...]
    affine: tuple[float, ...]
    flat: bool


class UnreadableError(Exception):
    """A file that cannot be read as a label map; the message names it."""


def find_reader(dataset_json: Mapping[str, Any], examples: Sequence[Path]) -> type:
    """nnU-Net's reader class for a dataset: the one it names, else the first that can open a file.

    Args:
        dataset_json: Content of ``dataset.json``.
        examples: Label maps of the dataset; several, for one may be broken.

    Raises:
        UserError: If nnU-Net knows no reader for the file ending, or none opens an example.
    """
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

    named = dataset_json.get("overwrite_image_reader_writer", "None")
    if named not in {None, "None"}:
        try:
            return recursive_find_reader_writer_by_name(named)
        except RuntimeError as error:
            raise UserError(f"dataset.json names the reader {named}, which nnU-Net does not have") from error
    ending = str(dataset_json["file_ending"]).lower()
    candidates = [c for c in LIST_OF_IO_CLASSES if ending in c.supported_file_endings]
    if not candidates:
        raise UserError(f"nnU-Net reads no files that end in {ending!r}; mend file_ending in dataset.json")
    problems = []
    for example in examples:
        for candidate in candidates:
            try:
                read_label_map(example, candidate)
                return candidate
            except UnreadableError as error:
                problems.append(str(error))
    raise UserError(problems[0])


def read_label_map(path: Path, reader: type) -> LabelMap:
    """Read a label map.

    Args:
        path: The file.
        reader: nnU-Net's reader class, see :func:`find_reader`.

    Raises:
        UnreadableError: If the file is broken or holds anything but non-negative integers.
    """
    read = {"SimpleITKIO": _read_simpleitk, "NibabelIO": _read_nibabel}.get(reader.__name__)
    try:
        check_complete(path)
        if read is not None:
            array, spacing, affine, flat = read(path)
        else:
            array, spacing, affine, flat = _read_nnunet(path, reader)
        return LabelMap(_as_labels(array), tuple(float(abs(s)) for s in spacing), affine, flat)
    except Exception as error:  # whatever a reader throws at a broken file, the user needs the file's name
        raise UnreadableError(f"{path} cannot be read as a label map: {last_line(error)}") from error


def _read_simpleitk(path: Path) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...], bool]:
    import SimpleITK as sitk

    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    spacing = tuple(image.GetSpacing()[::-1])
    affine = (*image.GetOrigin(), *image.GetDirection())
    if array.ndim == 2:
        return array[None], (999 * max(spacing), *spacing), affine, True
    if array.ndim != 3:
        raise ValueError(f"it has {array.ndim} dimensions")
    return array, spacing, affine, False


def _read_nibabel(path: Path) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...], bool]:
    import nibabel

    image: Any = nibabel.load(path)
    if len(image.shape) != 3:
        raise ValueError(f"it has {len(image.shape)} dimensions")
    array = np.asanyarray(image.dataobj).transpose(2, 1, 0)
    spacing = tuple(float(z) for z in image.header.get_zooms()[::-1])
    return array, spacing, tuple(np.asarray(image.affine, dtype=float).ravel()), False


def _read_nnunet(path: Path, reader: type) -> tuple[np.ndarray, tuple[float, ...], tuple[float, ...], bool]:
    with contextlib.redirect_stdout(io.StringIO()):
        stack, properties = reader().read_seg(str(path))
    if stack.shape[0] != 1:
        raise ValueError(f"it has {stack.shape[0]} channels")
    affine: tuple[float, ...] = ()
    if "sitk_stuff" in properties:
        affine = (*properties["sitk_stuff"]["origin"], *properties["sitk_stuff"]["direction"])
    elif "nibabel_stuff" in properties:
        stuff = properties["nibabel_stuff"]
        affine = tuple(np.asarray(stuff.get("reoriented_affine", stuff["original_affine"]), dtype=float).ravel())
    return stack[0], tuple(properties["spacing"]), affine, reader.__name__ == "NaturalImage2DIO"


def _as_labels(array: np.ndarray) -> npt.NDArray[np.unsignedinteger[Any]]:
    if array.dtype == bool:
        return array.view(np.uint8)
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise ValueError(f"it holds {array.dtype}, not labels")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    if low < 0:
        raise ValueError(f"it holds the negative value {low}")
    if high > np.iinfo(np.uint32).max:
        raise ValueError(f"it holds the value {high}")
    target = np.uint8 if high < 256 else np.uint16 if high < 65536 else np.uint32
    labels = array.astype(target, copy=False)
    if not np.issubdtype(array.dtype, np.integer) and not np.array_equal(labels, array):
        raise ValueError("it holds values that are not whole numbers")
    return np.ascontiguousarray(labels)


def geometry_difference(reference: LabelMap, prediction: LabelMap) -> str | None:
    """How the grid of a prediction differs from its reference, or None where it does not.

    Spacing, origin and orientation may differ in the rounding of headers: by a thousandth, of a voxel for the origin.
    """
    if reference.array.shape != prediction.array.shape:
        return f"shape {_show(prediction.array.shape)} instead of {_show(reference.array.shape)}"
    if not np.allclose(reference.spacing, prediction.spacing, rtol=_RELATIVE_TOLERANCE, atol=0):
        return f"spacing {_show(prediction.spacing)} mm instead of {_show(reference.spacing)} mm"
    if reference.affine and prediction.affine:
        smallest = min(reference.spacing)
        if len(reference.affine) != len(prediction.affine) or not np.allclose(
            reference.affine, prediction.affine, rtol=_RELATIVE_TOLERANCE, atol=_RELATIVE_TOLERANCE * max(smallest, 1.0)
        ):
            return "origin or orientation differs"
    return None


def _show(values: tuple[float, ...]) -> str:
    return " x ".join(f"{v:g}" for v in values)
