"""One slice of an image with the predicted labels over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from nnunet_ext.core.figure_style import figure_style


@figure_style()
def draw_prediction(
    image: npt.NDArray[np.floating],
    prediction: npt.NDArray[np.integer],
    spacing: tuple[float, float, float],
    label_names: Mapping[int, str],
    title: str,
    file: Path,
    reference: npt.NDArray[np.integer] | None = None,
) -> None:
    """Draw the axial slice with the most predicted foreground, and the reference as white contours.

    Args:
        image: (z, y, x).
        prediction: label map (z, y, x).
        spacing: voxel size in mm, (z, y, x).
        label_names: name of each label value; 0 is background.
        title: above the picture.
        file: picture to write; its suffix chooses the format.
        reference: label map (z, y, x), where there is one.
    """
    index = int((prediction > 0).sum(axis=(1, 2)).argmax())
    height, width = image.shape[1] * spacing[1], image.shape[2] * spacing[2]
    x = (np.arange(image.shape[2]) + 0.5) * spacing[2]
    y = (np.arange(image.shape[1]) + 0.5) * spacing[1]
    extent = (0.0, width, height, 0.0)
    figure = Figure(figsize=(8, 7 * height / width + 0.6), dpi=130, layout="constrained")
    axes = figure.subplots()
    low, high = np.percentile(image, (2, 99.5))
    axes.imshow(image[index], cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")

    handles = []
    names = {value: name for value, name in label_names.items() if value != 0}
    for i, (value, name) in enumerate(names.items()):
        colour = colormaps["tab10" if len(names) <= 10 else "tab20"](i)
        mask = prediction[index] == value
        layer = np.zeros((*mask.shape, 4))
        layer[mask] = to_rgba(colour, 0.45)
        axes.imshow(layer, extent=extent, interpolation="nearest")
        if reference is not None and (reference[index] == value).any():
            truth = (reference[index] == value).astype(float)
            axes.contour(x, y, truth, levels=[0.5], colors="white", linewidths=1.2)
        handles.append(Patch(color=colour, label=name))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    note = "colour: prediction" if reference is None else "colour: prediction, white: reference"
    axes.set_title(f"{title}, slice {index + 1} of {len(image)} ({note})", fontsize=10)
    axes.set_axis_off()
    FigureCanvasAgg(figure)
    figure.savefig(file)
