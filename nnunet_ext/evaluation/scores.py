"""Points of two challenges, from metrics of one case and class."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

SLIVER07_REFERENCES: Mapping[str, float] = MappingProxyType(
    {"VOE": 6.4, "RVD": 4.7, "ASSD": 1.0, "RMSD": 1.8, "HD": 19.0}
)
"""Errors of a second human rater, each worth 75 points: %, %, mm, mm, mm.

As cited after Heimann et al. 2009 (doi 10.1109/TMI.2009.2013851). For RMSD some tools use 1.7 mm. Pass your own values
where it matters.
"""

CHAOS_THRESHOLDS: Mapping[str, float] = MappingProxyType({"RAVD": 5.0, "ASSD": 15.0, "HD": 60.0})
"""Errors from which on CHAOS gives no points: %, mm, mm. The threshold itself still counts, at 0 points."""

CHAOS_MIN_DICE = 0.8


def chaos_score(dice: float, ravd: float, assd: float, mssd: float) -> float:
    """CHAOS points of one organ in one case, 0 to 100 (official evaluation code; Conze et al. 2021, section 4.1).

    Dice is not stretched: 0.80 gives 80 points, 0.799 gives 0.

    Args:
        dice: Dice in [0, 1].
        ravd: Relative absolute volume difference in %.
        assd: Average symmetric surface distance in mm.
        mssd: Maximum symmetric surface distance in mm.
    """
    points = [100 * dice if dice >= CHAOS_MIN_DICE else 0.0]
    for value, worst in zip((ravd, assd, mssd), CHAOS_THRESHOLDS.values(), strict=True):
        points.append(max(0.0, 100 * (1 - value / worst)))
    return sum(points) / len(points)


def sliver07_score(
    voe: float, rvd: float, assd: float, rmsd: float, msd: float, references: Mapping[str, float] = SLIVER07_REFERENCES
) -> float:
    """SLIVER07 points of one case, 0 to 100; 75 is as good as the second human rater (Heimann et al. 2009).

    Args:
        voe: Volumetric overlap error in %.
        rvd: Signed or absolute relative volume difference in %.
        assd: Average symmetric surface distance in mm.
        rmsd: Root mean square symmetric surface distance in mm.
        msd: Maximum symmetric surface distance in mm.
        references: Error worth 75 points, per metric: keys VOE, RVD, ASSD, RMSD, HD.
    """
    values = {"VOE": voe, "RVD": abs(rvd), "ASSD": assd, "RMSD": rmsd, "HD": msd}
    return sum(max(0.0, 100 - 25 * value / references[name]) for name, value in values.items()) / len(values)
