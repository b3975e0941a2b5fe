"""Evaluation of one case: every class of a pair of label maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from nnunet_ext.core.masks import Box, bounding_box, join_boxes
from nnunet_ext.evaluation.confusion import ConfusionCounts, joint_histogram
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.metrics import (
    Presence,
    absent_distance_metrics,
    distance_metrics,
    metric_names,
    overlap_metrics,
    presence,
)
from nnunet_ext.evaluation.scores import chaos_score, sliver07_score
from nnunet_ext.evaluation.surface import border_distances, object_border
from nnunet_ext.evaluation.targets import LabelScheme

Labels = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class ClassResult:
    """Metrics of one class in one case.

    Attributes:
        presence: Which label maps hold the class.
        counts: Voxel counts.
        volume_ref_ml: Volume in the reference in ml, NaN for 2D images.
        volume_pred_ml: Volume in the prediction in ml, NaN for 2D images.
        metrics: Values by name; all NaN where neither label map holds the class.
    """

    presence: Presence
    counts: ConfusionCounts
    volume_ref_ml: float
    volume_pred_ml: float
    metrics: dict[str, float]


def evaluate_pair(
    reference: Labels,
    prediction: Labels,
    spacing: Sequence[float],
    scheme: LabelScheme,
    conventions: Conventions | None = None,
    flat: bool = False,
    workers: int = 1,
) -> dict[str, ClassResult]:
    """All metrics of all classes of a pair of label maps.

    Axes of length 1 do not count for surfaces: a single slice is evaluated in 2D.

    Args:
        reference: Label map of shape (z, y, x) or (y, x).
        prediction: Label map of the same shape.
        spacing: Voxel size in mm in the order of the array axes.
        scheme: Classes, see :func:`~nnunet_ext.evaluation.targets.label_scheme`.
        conventions: Defaults to the preset ``papers``.
        flat: Whether the first axis of a 2D image has no thickness, so that there are areas but no volumes.
        workers: Threads for nearest-neighbour searches.

    Returns:
        A result per target name.

    Raises:
        ValueError: If shapes differ or a label is not in the scheme.
    """
    conventions = conventions or Conventions()
    if reference.shape != prediction.shape or len(spacing) != reference.ndim:
        raise ValueError(f"shapes {reference.shape}, {prediction.shape} and spacing {tuple(spacing)} do not fit")
    kept = [axis for axis, n in enumerate(reference.shape) if n > 1] or [reference.ndim - 1]
    shape = [reference.shape[axis] for axis in kept]
    steps = [float(spacing[axis]) for axis in kept]
    has_volume = not flat and reference.ndim == 3
    voxel_ml = float(np.prod(spacing)) / 1000 if has_volume else float("nan")
    ref, pred = reference.reshape(shape), prediction.reshape(shape)

    box = _foreground_box(ref, pred)
    histogram = joint_histogram(ref[box], pred[box], scheme.labels)
    # What lies outside the box is background in both.
    histogram.counts[0, 0] += ref.size - ref[box].size
    ignored = None
    if scheme.ignore is not None and histogram.counts[histogram.labels.index(scheme.ignore)].any():
        ignored = ref[box] == scheme.ignore
    label_boxes = _label_boxes(ref[box], pred[box], scheme)
    names = metric_names(conventions)

    results = {}
    for target in scheme.targets:
        counts = histogram.confusion(target.members, scheme.ignore)
        found = presence(counts)
        values = dict.fromkeys(names, float("nan"))
        if found != "absent":
            values |= overlap_metrics(counts, voxel_ml, conventions)
            if found == "both":
                own = _surroundings([label_boxes[m] for m in target.members], box, shape)
                unknown = None if ignored is None else (ref[own] == scheme.ignore)
                borders = []
                for labels in (ref, pred):
                    # Each mask goes when its border is found: at no time do both take memory.
                    mask = _mask(labels[own], target.members)
                    if unknown is not None:
                        mask &= ~unknown
                    borders.append(
                        object_border(mask, conventions.border_neighbourhood, conventions.edge_is_surface, unknown)
                    )
                    del mask
                distances = border_distances(borders[0], borders[1], steps, workers=workers)
                values |= distance_metrics(distances, conventions)
            else:
                values |= absent_distance_metrics(shape, steps, conventions)
            values |= _scores(values, conventions)
        results[target.name] = ClassResult(found, counts, counts.n_ref * voxel_ml, counts.n_pred * voxel_ml, values)
    return results


def _foreground_box(ref: Labels, pred: Labels) -> Box:
    boxes = [b for b in (bounding_box(ref), bounding_box(pred)) if b is not None]
    if not boxes:
        return tuple(slice(0, 1) for _ in ref.shape)
    return boxes[0] if len(boxes) == 1 else join_boxes(*boxes)


def _label_boxes(ref: Labels, pred: Labels, scheme: LabelScheme) -> dict[int, Box | None]:
    """Box of each label over both maps, found for all labels in one pass."""
    if len(scheme.labels) <= 2:
        return dict.fromkeys(scheme.labels, tuple(slice(0, n) for n in ref.shape))
    # Labels far apart in value would make find_objects build a list of that length; they are rare and small enough.
    found = [find_objects(labels, max_label=max(scheme.labels)) for labels in (ref, pred)]
    boxes: dict[int, Box | None] = {}
    for label in scheme.labels:
        own = [side[label - 1] for side in found] if label > 0 else []
        present = [tuple(b) for b in own if b is not None]
        boxes[label] = None if not present else present[0] if len(present) == 1 else join_boxes(*present)
    return boxes


def _surroundings(boxes: Sequence[Box | None], origin: Box, shape: Sequence[int]) -> Box:
    """Box around boxes given relative to ``origin``, in image axes, a voxel wider where the image goes on."""
    present = [b for b in boxes if b is not None]
    joined = present[0]
    for box in present[1:]:
        joined = join_boxes(joined, box)
    return tuple(
        slice(max(s.start + o.start - 1, 0), min(s.stop + o.start + 1, n))
        for s, o, n in zip(joined, origin, shape, strict=True)
    )


def _mask(labels: Labels, members: Sequence[int]) -> npt.NDArray[np.bool_]:
    mask = labels == members[0]
    for member in members[1:]:
        mask |= labels == member
    return mask


def _scores(values: dict[str, float], conventions: Conventions) -> dict[str, float]:
    points = {}
    if "chaos" in conventions.scores:
        points["CHAOS_score"] = chaos_score(values["Dice"], values["RAVD"], values["ASSD"], values["HD"])
    if "sliver07" in conventions.scores:
        points["SLIVER07_score"] = sliver07_score(
            values["VOE"], values["RVD"], values["ASSD"], values["RMSD"], values["HD"]
        )
    return points
