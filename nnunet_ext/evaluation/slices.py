"""Slices as people look at them, front and head up, the patient's left on the right; contours over grey values."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ext.core.figure_style import figure_style
from nnunet_ext.evaluation.reading import LabelMap

_LEFT, _BACK, _HEAD = range(3)  # axes of the patient, as in LabelMap.affine
_PLANES = {_HEAD: "axial", _BACK: "coronal", _LEFT: "sagittal"}
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class View:
    """How the slices along the first axis of an array are turned.

    Attributes:
        plane: ``axial``, ``coronal`` or ``sagittal``; ``image`` where the file does not say how the patient lies.
        swap: Whether rows become columns.
        flip: Whether rows and columns, after that, are put the other way round.
    """

    plane: str = "image"
    swap: bool = False
    flip: tuple[bool, bool] = (False, False)

    def turned(self, array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
        """A slice (rows, columns) as it is shown."""
        array = array.T if self.swap else array
        return array[:: -1 if self.flip[0] else 1, :: -1 if self.flip[1] else 1]

    def spacing(self, spacing: tuple[float, ...]) -> tuple[float, float]:
        """Size in mm of a row and a column of what is shown, from the spacing (z, y, x)."""
        rows, columns = spacing[-2:]
        return (columns, rows) if self.swap else (rows, columns)


def view_of(label_map: LabelMap) -> View:
    """The view of a volume's slices, from its header."""
    from nibabel.orientations import io_orientation

    if label_map.flat or len(label_map.affine) != 12:
        return View()
    found = io_orientation(np.vstack([np.reshape(label_map.affine, (3, 4)), [0, 0, 0, 1]]))
    if np.isnan(found).any():
        return View()
    axes = [(int(axis), sign > 0) for axis, sign in found[::-1]]  # of z, y, x: patient's axis, and whether along it
    (across, _), rows, columns = axes
    wanted = _BACK if across == _HEAD else _HEAD
    swap = rows[0] != wanted
    if swap:
        rows, columns = columns, rows
    # Rows run down: to the back, or away from the head. Columns run to the patient's left, or to the back.
    return View(_PLANES[across], swap, (rows[1] == (rows[0] == _HEAD), not columns[1]))


@figure_style()
def contour_picture(
    background: npt.NDArray[np.floating],
    contours: Iterable[tuple[npt.NDArray[np.bool_], str]],
    spacing: tuple[float, float],
    *,
    width: float = 3.4,
    dpi: int = 130,
    lossy: bool = False,
) -> str:
    """Contours over a slice, without margins, as ``data:`` URI.

    Args:
        background: Grey values from 0 to 1, (rows, columns).
        contours: Masks of that shape, each with its colour.
        spacing: Size in mm of a row and a column.
        width: Of the picture, in inches.
        dpi: Pixels in an inch.
        lossy: JPEG in place of PNG, for a page of many.
    """
    rows, columns = background.shape
    height_mm, width_mm = rows * spacing[0], columns * spacing[1]
    figure = Figure(figsize=(width, width * min(max(height_mm / width_mm, 0.6), 1.5)), dpi=dpi, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    extent = (0.0, width_mm, height_mm, 0.0)
    axes.imshow(background, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")
    x, y = (np.arange(columns) + 0.5) * spacing[1], (np.arange(rows) + 0.5) * spacing[0]
    for mask, colour in contours:
        if mask.any() and min(mask.shape) > 1:
            axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.6)
    axes.set_axis_off()
    canvas, buffer = FigureCanvasAgg(figure), io.BytesIO()
    options: dict[str, Any] = {"pil_kwargs": {"quality": 88}} if lossy else {}
    (canvas.print_jpg if lossy else canvas.print_png)(buffer, **options)
    kind = "jpeg" if lossy else "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
