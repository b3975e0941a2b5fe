"""Metrics of one class in one case, all derived from its confusion counts and its two lists of surface distances.

:data:`METRICS` is the single table of names, units and directions that files, tables, statistics and reports follow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.confusion import ConfusionCounts
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.distances import Distances, SurfaceDistances

Presence = Literal["both", "missed", "false_positive", "absent"]


@dataclass(frozen=True)
class Metric:
    """What a metric's values mean.

    Attributes:
        name: Key in files.
        title: Name in tables.
        unit: ``""`` for a rate in [0, 1], else the unit of the stored value.
        ideal: Value of a perfect segmentation.
        direction: ``higher`` or ``lower`` is better, ``zero``: closer to 0 is better.
        explanation: One line.
        pooled: Whether it is of all cases together, from the sums of their counts; else of one case.
    """

    name: str
    title: str
    unit: str
    ideal: float
    direction: Literal["higher", "lower", "zero"]
    explanation: str
    pooled: bool = False

    @property
    def arrow(self) -> str:
        """Direction as a sign for table heads."""
        return {"higher": "↑", "lower": "↓", "zero": "→0"}[self.direction]

    @property
    def shown_unit(self) -> str:
        """Unit in tables: rates are shown in percent, as in the papers."""
        return self.unit or "%"

    @property
    def shown_factor(self) -> float:
        """Stored value times this is the value shown in tables."""
        return 1.0 if self.unit else 100.0

    def loss(self, value: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Values turned so that smaller is better."""
        array = np.asarray(value, dtype=float)
        return {"higher": -array, "lower": array, "zero": np.abs(array)}[self.direction]


_FIXED = [
    Metric("Dice", "DSC", "", 1, "higher", "2|R∩P| / (|R|+|P|), per case"),
    Metric("IoU", "Jaccard", "", 1, "higher", "|R∩P| / |R∪P|"),
    Metric("VOE", "VOE", "%", 0, "lower", "volumetric overlap error, 100 (1 - IoU)"),
    Metric("VD_ml", "VD", "ml", 0, "zero", "signed volume difference, |P| - |R|"),
    Metric("RVD", "RVD", "%", 0, "zero", "signed relative volume difference; VD of SLIVER07 and of Lian et al."),
    Metric("RAVD", "RAVD", "%", 0, "lower", "relative absolute volume difference, |RVD|"),
    Metric("Precision", "Precision", "", 1, "higher", "TP / (TP+FP)"),
    Metric("Recall", "Recall", "", 1, "higher", "TP / (TP+FN), sensitivity"),
    Metric("Specificity", "Specificity", "", 1, "higher", "TN / (TN+FP); grows with the field of view"),
    Metric("Accuracy", "Accuracy", "", 1, "higher", "(TP+TN) / all voxels; grows with the field of view"),
    Metric("ASD", "ASD P→R", "mm", 0, "lower", "mean distance from prediction surface to reference surface, directed"),
    Metric("ASD_ref_to_pred", "ASD R→P", "mm", 0, "lower", "the same from reference to prediction"),
    Metric("ASSD", "ASSD", "mm", 0, "lower", "average symmetric surface distance"),
    Metric("MASD", "MASD", "mm", 0, "lower", "mean of the two directed ASD"),
    Metric("RMSD", "RMSD", "mm", 0, "lower", "root mean square symmetric surface distance"),
    Metric("RMSE", "RMSE*", "mm", 0, "lower", "root mean square distance P→R; assumed meaning of RMSE in Lian et al."),
    Metric("HD", "HD", "mm", 0, "lower", "maximum symmetric surface distance, Hausdorff; MSD, MSSD"),
    Metric("HD95", "HD95", "mm", 0, "lower", "95th percentile Hausdorff by the chosen percentile rule"),
    Metric("HD95_max_of_sides", "HD95 (max)", "mm", 0, "lower", "larger of the two directed 95th percentiles"),
    Metric("HD95_pooled", "HD95 (pooled)", "mm", 0, "lower", "95th percentile of both lists together (MedPy)"),
]
_SCORES = [
    Metric("CHAOS_score", "CHAOS", "points", 100, "higher", "mean of four thresholded metrics, 0 to 100"),
    Metric("SLIVER07_score", "SLIVER07", "points", 100, "higher", "mean of five metrics; 75 is a second human rater"),
]
_POOLED = [
    Metric("Dice_global", "DSC global", "", 1, "higher", "Dice of all cases taken as one", pooled=True),
    Metric("IoU_global", "Jaccard global", "", 1, "higher", "IoU of all cases taken as one", pooled=True),
]
POOLED_COUNTS = ("TP", "FP", "FN")  # what they are computed from


def nsd_name(tolerance_mm: float) -> str:
    """Key of the normalised surface Dice at a tolerance."""
    return f"NSD_{tolerance_mm:g}mm"


def metric(name: str) -> Metric:
    """The description of a metric by its key.

    Raises:
        KeyError: For an unknown name.
    """
    if name.startswith("NSD_"):
        tolerance = name.removeprefix("NSD_").removesuffix("mm")
        text = f"share of both surfaces within {tolerance} mm of the other"
        return Metric(name, f"NSD {tolerance} mm", "", 1, "higher", text)
    return METRICS[name]


METRICS: dict[str, Metric] = {m.name: m for m in (*_FIXED, *_SCORES, *_POOLED)}


def metric_names(conventions: Conventions) -> list[str]:
    """Keys of all metrics that an evaluation under these conventions holds, in table order."""
    scores = {"chaos": "CHAOS_score", "sliver07": "SLIVER07_score"}
    return [
        *(m.name for m in _FIXED),
        *(nsd_name(t) for t in conventions.nsd_tolerances_mm),
        *(scores[s] for s in conventions.scores),
    ]


def presence(counts: ConfusionCounts) -> Presence:
    """Which of the two label maps hold the class; ``absent`` means neither."""
    if counts.n_ref and counts.n_pred:
        return "both"
    if counts.n_ref:
        return "missed"
    return "false_positive" if counts.n_pred else "absent"


def overlap_metrics(counts: ConfusionCounts, voxel_ml: float, conventions: Conventions) -> dict[str, float]:
    """Overlap and volume metrics.

    SD-Net (Huang et al. 2024) prints specificity as TN/(TP+FP) in Eq. (11); the usual TN/(TN+FP) is meant and computed.

    Args:
        counts: Voxel counts of a class that at least one label map holds.
        voxel_ml: Volume of a voxel in ml.
        conventions: Decide the denominator of relative differences and their value where it is 0.
    """
    tp, fp, fn, tn = counts.tp, counts.fp, counts.fn, counts.tn
    union = tp + fp + fn
    difference = counts.n_pred - counts.n_ref
    if conventions.volume_denominator == "prediction":
        # The notebook of LiTS swaps the two arguments, so the sign swaps too.
        difference, base = -difference, counts.n_pred
    else:
        base = counts.n_ref
    if base:
        relative = 100 * difference / base
    else:
        size = math.inf if conventions.absent_distance == "infinity" else 100.0
        relative = math.copysign(size, difference)
    negatives = tn + fp
    return {
        "Dice": 2 * tp / (union + tp),
        "IoU": tp / union,
        "VOE": 100 * (1 - tp / union),
        "VD_ml": (counts.n_pred - counts.n_ref) * voxel_ml,
        "RVD": relative,
        "RAVD": abs(relative),
        # A class in one label map only has no precision or no recall; it counts as 0, never as left out.
        "Precision": tp / counts.n_pred if counts.n_pred else 0.0,
        "Recall": tp / counts.n_ref if counts.n_ref else 0.0,
        "Specificity": tn / negatives if negatives else 1.0,
        "Accuracy": (tp + tn) / (union + tn),
    }


def pooled_metrics(tp: float, fp: float, fn: float) -> dict[str, float]:
    """Dice and IoU of all cases taken as one: "Dice global" of LiTS and SD-Net (Huang et al. 2024, Sec. 4.2).

    Args:
        tp: True positive voxels, summed over cases.
        fp: False positive ones.
        fn: False negative ones.

    Returns:
        By name; NaN where no case holds the class.
    """
    union = tp + fp + fn
    values = (2 * tp / (union + tp), tp / union) if union else (math.nan, math.nan)
    return dict(zip((m.name for m in _POOLED), values, strict=True))


def distance_metrics(distances: SurfaceDistances, conventions: Conventions) -> dict[str, float]:
    """Surface metrics in mm, and the normalised surface Dice.

    Pooled ASSD, RMSD and HD are those of SLIVER07 (Heimann et al. 2009) and CHAOS (Kavur et al. 2021). Liu et al. 2022
    print HD with a squared norm; the distance itself is meant. NSD follows Nikolov et al. 2021 with border voxels in
    place of surface elements. RMSE of Lian et al. 2025 is not defined there; their tables rule out the pooled RMSD, so
    the directed value P→R is assumed.
    """
    sides = (distances.pred_to_ref, distances.ref_to_pred)
    pooled = Distances.joined(sides)
    means = [side.mean() for side in sides]
    roots = [side.root_mean_square() for side in sides]
    percentiles = [side.percentile(95) for side in sides]
    percentile_pooled = pooled.percentile(95)
    by_pool = conventions.averaging == "pooled"
    values = {
        "ASD": means[0],
        "ASD_ref_to_pred": means[1],
        "ASSD": pooled.mean() if by_pool else sum(means) / 2,
        "MASD": sum(means) / 2,
        "RMSD": pooled.root_mean_square() if by_pool else sum(roots) / 2,
        "RMSE": roots[0],
        "HD": pooled.largest(),
        "HD95": percentile_pooled if conventions.percentile_rule == "pooled" else max(percentiles),
        "HD95_max_of_sides": max(percentiles),
        "HD95_pooled": percentile_pooled,
    }
    for tolerance in conventions.nsd_tolerances_mm:
        # Half a micrometre of slack: a distance of exactly the tolerance counts, whatever its last bit.
        values[nsd_name(tolerance)] = pooled.share_within(tolerance + 5e-7)
    return values


def absent_distance_metrics(
    shape: Sequence[int], spacing: Sequence[float], conventions: Conventions
) -> dict[str, float]:
    """Surface metrics of a class that only one label map holds.

    Args:
        shape: Shape of the image.
        spacing: Voxel size in mm in the order of the array axes.
        conventions: Choose the penalty.
    """
    penalty = conventions.absent_distance
    if penalty == "diagonal":
        distance = math.dist([0.0] * len(shape), [n * s for n, s in zip(shape, spacing, strict=True)])
    elif penalty == "infinity":
        distance = math.inf
    else:
        distance = float(penalty)
    values = {m.name: distance for m in _FIXED if m.unit == "mm"}
    return values | {nsd_name(tolerance): 0.0 for tolerance in conventions.nsd_tolerances_mm}


def relative_dice(previous: npt.NDArray[np.bool_], current: npt.NDArray[np.bool_]) -> float:
    """Dice of two consecutive predictions, RDSC of Liu et al. 2022, Eq. (14); 1 where both are empty.

    Args:
        previous: Mask of any shape.
        current: Mask of the same shape.
    """
    total = int(np.count_nonzero(previous)) + int(np.count_nonzero(current))
    return 2 * int(np.count_nonzero(previous & current)) / total if total else 1.0
