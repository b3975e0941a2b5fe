"""Pictures of the worst cases: contours of reference and prediction on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.core.masks import bounding_box, join_boxes
from nnunet_ext.evaluation.images import channel_names, find_image, grey_values, read_channels
from nnunet_ext.evaluation.reading import Readers, UnreadableError, find_readers, read_label_map, shape_difference
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.slices import contour_picture, view_of
from nnunet_ext.evaluation.targets import Target
from nnunet_ext.evaluation.worker import MISSED

REFERENCE_COLOUR, PREDICTION_COLOUR = "#22d3ee", "#fb923c"
NOT_FOUND = "image not found"


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
    evaluation: Evaluation,
    dataset_json: Mapping[str, Any],
    images_dir: Path | None,
    name: str,
    n: int,
    raw: Sequence[Path] = (),
) -> list[Overlay]:
    """Overlays of the ``n`` worst pairs of case and class.

    Args:
        evaluation: The result; its files must still be in place.
        dataset_json: Content of ``dataset.json``.
        images_dir: Folder of images; by default see :func:`~nnunet_ext.evaluation.images.find_image`.
        name: Metric that decides what is worst.
        n: Number of pictures.
        raw: Raw datasets to look for images in, see :func:`~nnunet_ext.evaluation.images.raw_folders`.
    """
    targets = {t.name: t for t in evaluation.targets}
    files = {case["case"]: case for case in evaluation.cases}
    return [
        _overlay(files[row["case"]], targets[row["label"]], dataset_json, images_dir, raw)
        for _, row in evaluation.worst(name, n).iterrows()
    ]


def _overlay(
    case: Mapping[str, Any],
    target: Target,
    dataset_json: Mapping[str, Any],
    images_dir: Path | None,
    raw: Sequence[Path],
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
    image, source = _image(case["case"], reference_file, dataset_json, images_dir, raw, readers, ref.shape)
    index, view = _worst_slice(ref, pred), view_of(reference)
    channel = next(iter(channel_names(dataset_json)), "")
    data = _draw(
        view.turned(ref[index]),
        view.turned(pred[index]),
        None if image is None else view.turned(grey_values(image[index], channel)),
        view.spacing(reference.spacing),
    )
    return Overlay(case["case"], target.name, f"{view.plane} slice {index + 1} of {len(ref)}{source}", data)


def _image(
    case: str,
    reference: Path,
    dataset_json: Mapping[str, Any],
    images_dir: Path | None,
    raw: Sequence[Path],
    readers: Readers,
    shape: tuple[int, ...],
) -> tuple[npt.NDArray[np.floating] | None, str]:
    """First channel, or None and why."""
    path = find_image(case, reference, dataset_json, images_dir, raw)
    if path is None:
        return None, f", {NOT_FOUND}"
    try:
        image = read_channels([path], readers)[0]
    except UnreadableError:  # a picture less must not cost the report; the caption says so
        return None, f", image unreadable ({path.name})"
    if image.shape != shape:
        return None, ", image of another shape"
    return image, ""


def _worst_slice(ref: npt.NDArray[np.bool_], pred: npt.NDArray[np.bool_]) -> int:
    """Index of the slice with the most wrong voxels."""
    wrong = ref ^ pred
    if not wrong.any():
        wrong = ref
    return int(wrong.sum(axis=(1, 2)).argmax())


def _draw(
    ref: npt.NDArray[np.bool_],
    pred: npt.NDArray[np.bool_],
    image: npt.NDArray[np.floating] | None,
    spacing: tuple[float, float],
) -> str:
    """Contours in a slice, cut out around both."""
    boxes = [b for b in (bounding_box(mask) for mask in (ref, pred)) if b is not None]
    box = boxes[0] if len(boxes) == 1 else join_boxes(*boxes)
    # A margin of a third of the object, and at least 20 mm, shows where in the body it lies.
    shown = []
    for s, size, step in zip(box, ref.shape, spacing, strict=True):
        margin = int(max((s.stop - s.start) / 3, 20 / step))
        shown.append(slice(max(s.start - margin, 0), min(s.stop + margin, size)))
    cut = tuple(shown)
    background = np.full(ref.shape, 0.12) if image is None else image
    return contour_picture(background[cut], [(ref[cut], REFERENCE_COLOUR), (pred[cut], PREDICTION_COLOUR)], spacing)
