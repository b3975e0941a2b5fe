"""The voxel grid of a volume, and what counts as the same grid."""

from __future__ import annotations

from dataclasses import dataclass

# Headers that differ by less than this were rounded differently, which is normal.
SPACING_TOLERANCE_MM = 1e-3
ORIGIN_TOLERANCE_MM = 1e-2
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Geometry:
    """Voxel grid in the patient frame; all tuples in SimpleITK's order (x, y, z), millimetres, LPS."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    def differences(self, other: Geometry) -> list[str]:
        """What differs beyond the rounding of headers, in words; shapes are not compared."""
        found: list[str] = []
        if self == other:  # nearly always, and comparing numbers takes a while
            return found
        import numpy as np

        for name, tolerance in (
            ("spacing", SPACING_TOLERANCE_MM),
            ("origin", ORIGIN_TOLERANCE_MM),
            ("direction", DIRECTION_TOLERANCE),
        ):
            mine, theirs = getattr(self, name), getattr(other, name)
            if not np.allclose(mine, theirs, rtol=0, atol=tolerance):
                found.append(f"{name} {short(mine)} against {short(theirs)}")
        return found

    def same_for_nnunet(self, other: Geometry) -> bool:
        """Whether nnU-Net's integrity check would pass the pair in silence."""
        if self == other:
            return True
        import numpy as np

        return all(np.allclose(getattr(self, n), getattr(other, n)) for n in ("spacing", "origin", "direction"))


def short(values: tuple[float, ...]) -> str:
    """Numbers as they are written in messages."""
    return "(" + ", ".join(f"{v + 0.0:g}" for v in values) + ")"
