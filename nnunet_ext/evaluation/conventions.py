"""The choices that change a metric's value, gathered in one object that is written into every result.

Tools for the "same" metric disagree by 10-30 % because they choose differently here (Podobnik and Vrtovec,
"Understanding implementation pitfalls of distance-based metrics", arXiv 2410.02630). Two results may be compared only
when their :class:`Conventions` are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from nnunet_ext.core.errors import UserError

Sides = Literal["pooled", "mean_of_sides"]
PercentileRule = Literal["max_of_sides", "pooled"]
Score = Literal["chaos", "sliver07"]
BORDER_NEIGHBOURHOODS = (6, 18, 26)


@dataclass(frozen=True)
class Conventions:
    """How surfaces, averages and absent classes are treated.

    Attributes:
        preset: Name of the preset these conventions started from.
        border_neighbourhood: 6, 18 or 26. A voxel of the object is a border voxel if one of these neighbours lies
            outside the object. In 2D they become 4, 8 and 8.
        edge_is_surface: Whether object voxels on the edge of the image are border voxels. An object that fills the
            whole image has no other surface and always gets this one.
        averaging: ``pooled`` averages over the border voxels of both objects together, ``mean_of_sides`` averages the
            two directed averages. Decides ASSD and RMSD; MASD is the mean of sides by definition.
        percentile_rule: HD95 as the larger of the two directed percentiles or as the percentile of the pooled list.
        volume_denominator: Volume that RVD and RAVD are relative to.
        absent_distance: Distance in mm given to a class that only one of the two label maps contains: ``diagonal`` (of
            the image), ``infinity``, or a number. Such a case is never left out of a mean.
        nsd_tolerances_mm: Tolerances of the normalised surface Dice.
        lesions_belong_to_organ: Evaluate label 1 as the union of all labels (liver including its tumours).
        scores: Challenge scores to add.
    """

    preset: str = "papers"
    border_neighbourhood: int = 6
    edge_is_surface: bool = True
    averaging: Sides = "pooled"
    percentile_rule: PercentileRule = "max_of_sides"
    volume_denominator: Literal["reference", "prediction"] = "reference"
    absent_distance: Literal["diagonal", "infinity"] | float = "diagonal"
    nsd_tolerances_mm: tuple[float, ...] = (1.0, 2.0)
    lesions_belong_to_organ: bool = False
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        if self.border_neighbourhood not in BORDER_NEIGHBOURHOODS:
            raise UserError(f"border neighbourhood {self.border_neighbourhood} is none of 6, 18, 26")
        for value, allowed in ((self.averaging, Sides), (self.percentile_rule, PercentileRule)):
            if value not in get_args(allowed):
                raise UserError(f"convention {value!r} is none of {', '.join(get_args(allowed))}")
        if isinstance(self.absent_distance, str):
            if self.absent_distance not in {"diagonal", "infinity"}:
                raise UserError(f"absent distance {self.absent_distance!r} is neither diagonal, infinity nor a number")
        elif not self.absent_distance >= 0:
            raise UserError(f"absent distance {self.absent_distance} mm is negative or not a number")
        for tolerance in self.nsd_tolerances_mm:
            if not (tolerance >= 0 and math.isfinite(tolerance)):
                raise UserError(f"surface Dice tolerance {tolerance} mm is negative or not finite")

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Conventions:
        """Inverse of :meth:`to_dict`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    def describe(self) -> list[tuple[str, str]]:
        """(rule, choice) pairs in words, for terminal and report."""
        absent = {
            "diagonal": "distances get the image diagonal",
            "infinity": "distances are infinite",
        }.get(str(self.absent_distance), f"distances get {self.absent_distance} mm")
        relative = "infinite" if self.absent_distance == "infinity" else "100 %"
        return [
            ("Preset", self.preset),
            ("Surface", f"centres of border voxels, {self.border_neighbourhood}-neighbourhood (4 or 8 in 2D)"),
            ("Image edge", "is surface" if self.edge_is_surface else "is not surface"),
            (
                "ASSD, RMSD",
                "pooled over both surfaces" if self.averaging == "pooled" else "mean of the two directed values",
            ),
            (
                "HD95",
                "larger of the two directed 95th percentiles"
                if self.percentile_rule == "max_of_sides"
                else "95th percentile of the pooled distances",
            ),
            ("RVD, RAVD", f"relative to the volume of the {self.volume_denominator}"),
            ("Class in neither label map", "not scored, counted separately"),
            (
                "Class in only one label map",
                f"Dice, IoU, precision, recall, NSD = 0; VOE = 100 %; RVD, RAVD of an empty {self.volume_denominator}"
                f" = {relative}; {absent}",
            ),
            ("Units", "mm, ml, %; Dice, IoU, NSD and other rates are fractions in files; spacing in array axis order"),
        ]


PRESETS: dict[str, Conventions] = {
    # What MedPy and MONAI compute, hence most papers; HD95 as in Metrics Reloaded.
    "papers": Conventions(),
    # Official code, not its PDF, which words the border as 26-neighbourhood. Used by Conze et al. 2021, section 4.1.
    "chaos": Conventions(preset="chaos", edge_is_surface=False, percentile_rule="pooled", scores=("chaos",)),
    # The official program erodes with ITK's ball of radius 1 (19 voxels) whose outside counts as object by default.
    "sliver07": Conventions(
        preset="sliver07",
        border_neighbourhood=18,
        edge_is_surface=False,
        percentile_rule="pooled",
        scores=("sliver07",),
    ),
    # The official notebook scores 0 mm, a perfect value, where a class is missed; that is not reproduced unless
    # absent_distance=0 is asked for. It takes its maximum distance from 6-neighbourhood borders.
    "lits": Conventions(
        preset="lits",
        border_neighbourhood=18,
        percentile_rule="pooled",
        volume_denominator="prediction",
        lesions_belong_to_organ=True,
    ),
}


def conventions_from(preset: str = "papers", **changes: Any) -> Conventions:
    """A preset with some choices changed; ``None`` leaves a choice as it is.

    Args:
        preset: One of :data:`PRESETS`.
        **changes: Fields of :class:`Conventions`.

    Raises:
        UserError: For an unknown preset or an impossible choice.
    """
    if preset not in PRESETS:
        raise UserError(f"unknown preset {preset!r}; choose one of {', '.join(PRESETS)}")
    made = {key: value for key, value in changes.items() if value is not None}
    return replace(PRESETS[preset], **made)


def parse_absent_distance(text: str | None) -> str | float | None:
    """The option ``--absent``: ``diagonal``, ``infinity`` or a number of mm.

    Raises:
        UserError: If it is none of these.
    """
    if text is None or text in {"diagonal", "infinity"}:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"--absent {text!r} is neither diagonal, infinity nor a number of mm") from error
