"""Whether a voxel grid can be that of a scanned body, and which unit was meant if not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

#: Edges of the voxels of clinical scanners, in mm, with room on either side: slices may be far apart, but not pixels
#: as well, so that the whole voxel (the cube root of its volume) has a limit of its own.
EDGE_MM = (0.05, 50.0)
VOXEL_MM = 20.0
#: The longest edge of a scan of any part of a body, and of an abdomen.
ANY_PART_MM = (20.0, 2500.0)
ABDOMEN_MM = (100.0, 2500.0)

_UNITS = {0.001: "micrometres", 1.0: "millimetres", 10.0: "centimetres", 1000.0: "metres"}


def implausible(
    size: Sequence[int], spacing: Sequence[float], unit: float = 1.0, field_of_view: tuple[float, float] = ANY_PART_MM
) -> str:
    """Say what no scanned body has.

    Args:
        size: voxels x, y, z.
        spacing: voxel size in mm.
        unit: of the numbers in the file's header, in mm.
        field_of_view: shortest and longest plausible length, in mm, of the grid's longest edge.

    Returns:
        A clause without subject, with the unit that was likely meant; empty where all is plausible.
    """
    spacing = tuple(spacing[:3])
    if spacing == (1.0, 1.0, 1.0):  # a voxel size that was lost, as in LiTS, says nothing of the field of view
        return ""
    if _fits(size, spacing, field_of_view):
        return ""
    longest = max(n * s for n, s in zip(size, spacing, strict=False))
    clause = f"has voxels of {by(spacing)} mm and is {longest:.3g} mm long, which no body scan has"
    for meant, name in _UNITS.items():
        if meant != unit and _fits(size, [s * meant / unit for s in spacing], field_of_view):
            return f"{clause}: its header counts in {_UNITS[unit]}, and the numbers fit {name}"
    return clause


def _fits(size: Sequence[int], spacing: Sequence[float], field_of_view: tuple[float, float]) -> bool:
    longest = max(n * s for n, s in zip(size, spacing, strict=False))
    return (
        all(EDGE_MM[0] <= s <= EDGE_MM[1] for s in spacing)
        and math.prod(spacing) <= VOXEL_MM**3
        and field_of_view[0] <= longest <= field_of_view[1]
    )


def by(values: Iterable[float]) -> str:
    """``0.7 x 0.7 x 3``."""
    return " x ".join(f"{value:.4g}" for value in values)
