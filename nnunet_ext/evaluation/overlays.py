"""Pictures of the worst cases: contours of reference and prediction on the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_ext.core.figure_style import figure_style
from nnunet_ext.core.masks import bounding_box, join_boxes
from nnunet_ext.evaluation.reading import Readers, UnreadableError, find_readers, read_label_map, shape_difference
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import Target
from nnunet_ext.evaluation.worker import MISSED

REFERENCE_COLOUR, PREDICTION_COLOUR = "#22d3ee", "#fb923c"
_CT_WINDOW = (-160.0, 240.0)  # Hounsfield units, soft tissue
_PLANES = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Overlay:
    """A picture of one case and class.

    Attributes:
        case: Case identifier.
        label: Class.
        caption: What the picture shows.
        data_uri: PNG as ``data:`` URI, empty where the prediction could not be read.
    """

    case: str
    label: str
    caption: str
    data_uri: str


def worst_overlays(
    evaluation: Evaluation, dataset_json: Mapping[str, Any], images_dir: Path | None, name: str, n: int
) -> list[Overlay]:
    """Overlays of the ``n`` worst pairs of case and class.

    Args:
        evaluation: The result; its files must still be in place.
        dataset_json: Content of ``dataset.json``.
        images_dir: Folder of images; by default the ``images*`` folder beside ``labels*``.
        name: Metric that decides what is worst.
        n: Number of pictures.
    """
    targets = {t.name: t for t in evaluation.targets}
    files = {case["case"]: case for case in evaluation.cases}
    return [
        _overlay(files[row["case"]], targets[row["label"]], dataset_json, images_dir)
        for _, row in evaluation.worst(name, n).iterrows()
    ]


def find_image(
    case: str, reference: Path, dataset_json: Mapping[str, Any], images_dir: Path | None = None
) -> Path | None:
    """First channel of a case: named in ``dataset.json`` or in the images folder, else None."""
    ending = dataset_json["file_ending"]
    named: Any = dataset_json
    for key in ("dataset", case, "images"):
        named = named.get(key) if isinstance(named, Mapping) else None
    candidates = [Path(named[0])] if isinstance(named, list) and named and isinstance(named[0], str) else []
    folder = images_dir or reference.parent.with_name(reference.parent.name.replace("labels", "images"))
    candidates += [reference.parent.parent / c for c in candidates] + [folder / f"{case}_0000{ending}"]
    return next((c for c in candidates if c.is_file() and c != reference), None)


def _overlay(
    case: Mapping[str, Any], target: Target, dataset_json: Mapping[str, Any], images_dir: Path | None
) -> Overlay:
    reference_file, prediction_file = Path(case["reference_file"]), Path(case["prediction_file"])
    readers = find_readers(dataset_json)
    reference = read_label_map(reference_file, readers)
    try:
        prediction = read_label_map(prediction_file, readers)
        difference = shape_difference(reference, prediction)
        if case["note"].startswith(MISSED):
            difference = case["note"]
    except UnreadableError:
        difference = "no prediction"
    if difference:
        return Overlay(case["case"], target.name, f"Nothing to draw: {case['note'] or difference}", "")
    ref = np.isin(reference.array, target.members)
    pred = np.isin(prediction.array, target.members)
    image, source = _image(case["case"], reference_file, dataset_json, images_dir, readers, ref.shape)
    plane, index = _worst_slice(ref, pred)
    data = _draw(ref, pred, image, reference.spacing, plane, index)
    where = _PLANES[plane] if not reference.flat else "image"
    return Overlay(case["case"], target.name, f"{where} slice {index + 1} of {ref.shape[plane]}{source}", data)


def _image(
    case: str,
    reference: Path,
    dataset_json: Mapping[str, Any],
    images_dir: Path | None,
    readers: Readers,
    shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.floating] | None, str]:
    """Image scaled to [0, 1], or None and why."""
    path = find_image(case, reference, dataset_json, images_dir)
    if path is None:
        return None, ", image not found"
    try:
        image = readers.of(path)[0]().read_images([str(path)])[0][0]
    except Exception as error:  # a picture less must not cost the report; the caption says so
        return None, f", image unreadable ({type(error).__name__})"
    if image.shape != shape:
        return None, ", image of another shape"
    channels = dataset_json.get("channel_names")
    channel = next(iter(channels.values()), "") if isinstance(channels, Mapping) else ""
    low, high = _CT_WINDOW if str(channel).upper() == "CT" else np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1), ""


def _worst_slice(ref: npt.NDArray[np.bool_], pred: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Axis and index of the slice with the most wrong voxels; axial unless the image is a single slice."""
    wrong = ref ^ pred
    if not wrong.any():
        wrong = ref
    return 0, int(wrong.sum(axis=(1, 2)).argmax())


@figure_style()
def _draw(
    ref: npt.NDArray[np.bool_],
    pred: npt.NDArray[np.bool_],
    image: npt.NDArray[np.floating] | None,
    spacing: tuple[float, ...],
    plane: int,
    index: int,
) -> str:
    cut = tuple(index if axis == plane else slice(None) for axis in range(3))
    rows, columns = (axis for axis in range(3) if axis != plane)
    boxes = [b for b in (bounding_box(mask[cut]) for mask in (ref, pred)) if b is not None]
    box = boxes[0] if len(boxes) == 1 else join_boxes(*boxes)
    # A margin of a third of the object, and at least 20 mm, shows where in the body it lies.
    shown = []
    for s, axis in zip(box, (rows, columns), strict=True):
        margin = int(max((s.stop - s.start) / 3, 20 / spacing[axis]))
        shown.append(slice(max(s.start - margin, 0), min(s.stop + margin, ref.shape[axis])))
    view = tuple(shown)
    r, p = ref[cut][view], pred[cut][view]
    height, width = r.shape[0] * spacing[rows], r.shape[1] * spacing[columns]
    figure = Figure(figsize=(3.4, 3.4 * min(max(height / width, 0.6), 1.5)), dpi=130, facecolor="black")
    axes = figure.add_axes((0, 0, 1, 1))
    background = np.full(r.shape, 0.12) if image is None else image[cut][view]
    extent = (0.0, width, height, 0.0)
    axes.imshow(background, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")
    x = (np.arange(r.shape[1]) + 0.5) * spacing[columns]
    y = (np.arange(r.shape[0]) + 0.5) * spacing[rows]
    for mask, colour in ((r, REFERENCE_COLOUR), (p, PREDICTION_COLOUR)):
        if mask.any() and min(mask.shape) > 1:
            axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.6)
    axes.set_axis_off()
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
