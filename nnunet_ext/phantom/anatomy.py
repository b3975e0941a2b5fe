"""The synthetic abdomen: thirteen organs as ellipsoids and tubes, varied from case to case by a seed.

Everything is described in millimetres in a patient frame (x towards the patient's left, y towards the back, z towards
the head; origin in the middle of the field of view) and sampled on the voxel grid of the case, so that the same seed
at another voxel size shows the same patient. Positions and sizes are those of an adult in any anatomy atlas, rounded;
the two adrenal glands are drawn somewhat larger so that they hold several voxels at the default voxel size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from scipy import ndimage

#: Organs of the BTCV challenge with its label values: the fixed points of the whole phantom.
BTCV_LABELS = MappingProxyType(
    {
        "background": 0,
        "spleen": 1,
        "right_kidney": 2,
        "left_kidney": 3,
        "gallbladder": 4,
        "esophagus": 5,
        "liver": 6,
        "stomach": 7,
        "aorta": 8,
        "inferior_vena_cava": 9,
        "portal_and_splenic_vein": 10,
        "pancreas": 11,
        "right_adrenal_gland": 12,
        "left_adrenal_gland": 13,
    }
)

#: What else a voxel can be. Values above the organs; lesions count as part of the organ they lie in.
TISSUES = MappingProxyType(
    {
        **{name: value for name, value in BTCV_LABELS.items() if value},
        "air": 0,
        "fat": 20,
        "muscle": 21,
        "bone": 22,
        "lung": 23,
        "bowel": 24,
        "liver_tumour": 30,
        "pancreas_tumour": 31,
    }
)
LESIONS = MappingProxyType({"liver": "liver_tumour", "pancreas": "pancreas_tumour"})

#: Field of view (z, y, x) in mm for which the anatomy is written down; other fields of view scale it.
FIELD_OF_VIEW_MM = (192.0, 320.0, 320.0)

DEFAULT_SHAPE = (24, 64, 64)
DEFAULT_SPACING_MM = (8.0, 5.0, 5.0)

Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]  # z, y, x in mm, each of the volume's shape
_Points = Sequence[tuple[float, float, float]]  # x, y, z in mm

_ELLIPSOIDS: dict[str, list[tuple[tuple[float, float, float], tuple[float, float, float], float]]] = {
    # organ: [(centre x, y, z), (semi-axes x, y, z), rotation about z in degrees]; several are united
    "liver": [((-72, -8, 32), (58, 66, 58), 0), ((-8, -44, 42), (58, 32, 32), 10)],
    "spleen": [((98, 32, 44), (24, 40, 40), -25)],
    "stomach": [((62, -30, 36), (36, 34, 40), 20), ((26, -50, 4), (34, 22, 20), 0)],
    "right_kidney": [((-62, 50, -38), (25, 23, 46), 20)],
    "left_kidney": [((62, 50, -26), (25, 23, 46), -20)],
    "gallbladder": [((-56, -50, -22), (16, 20, 24), 15)],
    "right_adrenal_gland": [((-40, 34, 22), (9, 15, 16), 30)],
    "left_adrenal_gland": [((36, 30, 26), (9, 15, 16), -30)],
}
_TUBES: dict[str, tuple[_Points, tuple[float, float]]] = {
    # organ: (centre line x, y, z, (radius at its start, at its end))
    "aorta": (((14, 30, 140), (10, 32, 40), (6, 30, -40), (4, 30, -140)), (13, 11)),
    "inferior_vena_cava": (((-16, 14, 140), (-22, 22, 40), (-20, 28, -40), (-18, 30, -140)), (13, 12)),
    "esophagus": (((10, 14, 140), (14, 10, 74), (34, -10, 62)), (11, 11)),
    "portal_and_splenic_vein": (((-44, -6, 22), (-14, -6, 4), (20, 4, 6), (74, 26, 26)), (9, 7)),
    "pancreas": (((-32, -14, -26), (-12, -24, -10), (24, -10, -8), (72, 14, 8)), (18, 12)),
}
#: Drawn in this order, so that small organs stay whole where a large one would cover them.
_DRAWING_ORDER = (
    "liver",
    "stomach",
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "pancreas",
    "portal_and_splenic_vein",
    "inferior_vena_cava",
    "esophagus",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "aorta",
)


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient on one voxel grid.

    Attributes:
        tissue: what every voxel is, a value of :data:`TISSUES`; ``(z, y, x)``, uint8. Index x grows towards the
            patient's left, y towards the back, z towards the head (LPS, as in DICOM).
        spacing: voxel size in mm ``(z, y, x)``.
        origin: position of the first voxel's centre in mm ``(z, y, x)``.
        seed: what the anatomy was drawn from; intensities use it too.
    """

    tissue: np.ndarray
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    seed: int

    @cached_property
    def organs(self) -> np.ndarray:
        """The BTCV label map ``(z, y, x)``, uint8; lesions belong to their organ."""
        table = np.zeros(256, np.uint8)
        for value in BTCV_LABELS.values():
            table[value] = value
        for organ, lesion in LESIONS.items():
            table[TISSUES[lesion]] = BTCV_LABELS[organ]
        return table[self.tissue]

    def labels(self, names: Sequence[str]) -> np.ndarray:
        """Label map ``(z, y, x)``, uint8, of the named structures, numbered 1, 2, ... in the order given.

        A lesion named after its organ takes its voxels away from it, as in LiTS; a lesion not named stays organ.

        Raises:
            KeyError: a name is in neither :data:`BTCV_LABELS` nor :data:`LESIONS`.
        """
        result = np.zeros_like(self.tissue)
        for value, name in enumerate(names, start=1):
            region = self.tissue == TISSUES[name] if name in LESIONS.values() else self.organs == BTCV_LABELS[name]
            result[region] = value
        return result


def make_phantom(
    seed: int,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    spacing: tuple[float, float, float] | None = None,
    lesions: bool = False,
    absent: Sequence[str] = (),
) -> Phantom:
    """Draw one patient.

    Args:
        seed: the same seed gives the same patient, whatever the voxel grid.
        shape: voxels ``(z, y, x)``.
        spacing: voxel size in mm ``(z, y, x)``; None draws it around :data:`DEFAULT_SPACING_MM`, scaled so that the
            field of view stays about the same whatever the shape.
        lesions: add tumours in liver and pancreas.
        absent: organs this patient has not, e.g. the gallbladder after its removal.
    """
    rng = np.random.default_rng([seed, 0])
    scale = rng.uniform(0.92, 1.08, 3)  # z, y, x; drawn first so that it does not depend on what follows
    if spacing is None:
        view = np.asarray(FIELD_OF_VIEW_MM) * (scale[0], scale[1], scale[1])  # square pixels as every scanner has
        dz, dy, dx = (float(s) for s in np.round(view / np.asarray(shape), 3))
        spacing = (dz, dy, dx)
    view = np.asarray(shape) * np.asarray(spacing)
    grid = _warp(_coordinates(shape, np.asarray(FIELD_OF_VIEW_MM) / view * scale, spacing), rng)
    tissue = _draw_body(grid, rng)
    canvas = _Canvas(tissue, grid)
    for organ in _DRAWING_ORDER:
        # drawn even if absent: the other organs are to stay as they are
        parts = list(_tube(organ, rng) if organ in _TUBES else _ellipsoids(organ, rng))
        for part in parts if organ not in absent else []:
            canvas.paint(part, TISSUES[organ])
    _cut_at_diaphragm(tissue, grid)
    if lesions:
        _add_lesions(tissue, grid, np.random.default_rng([seed, 1]))
    z, y, x = (float(round(-(n - 1) * s / 2, 3)) for n, s in zip(shape, spacing, strict=True))
    return Phantom(tissue, spacing, (z, y, x), seed)


def _coordinates(shape: Sequence[int], scale: np.ndarray, spacing: Sequence[float]) -> Coordinates:
    """Position of every voxel, as arrays that broadcast to the volume."""
    axes = [(np.arange(n) - (n - 1) / 2) * s * f for n, s, f in zip(shape, spacing, scale, strict=True)]
    z, y, x = np.meshgrid(*(axis.astype(np.float32) for axis in axes), indexing="ij", sparse=True)
    return z, y, x


def _warp(grid: Coordinates, rng: np.random.Generator) -> Coordinates:
    """Bend space smoothly by up to some 6 mm, so that no organ is an exact ellipsoid."""
    z, y, x = grid
    waves = []
    for _ in range(3):
        amplitude = rng.uniform(2, 6)
        length = rng.uniform(60, 140, 3) * rng.choice([-1, 1], 3)
        phase = rng.uniform(0, 2 * np.pi)
        angle = z * (2 * np.pi / length[0]) + y * (2 * np.pi / length[1]) + x * (2 * np.pi / length[2])
        waves.append(amplitude * np.sin(angle + phase, dtype=np.float32))
    return z + waves[0], y + waves[1], x + waves[2]


def _draw_body(grid: Coordinates, rng: np.random.Generator) -> np.ndarray:
    z, y, x = grid
    fat = rng.uniform(8, 26)  # thickness of the fat below the skin in mm
    outer = np.hypot(x / 150, y / 110)
    inner = np.hypot(x / (150 - fat), y / (110 - fat))
    tissue = np.full(np.broadcast_shapes(z.shape, y.shape, x.shape), TISSUES["air"], np.uint8)
    tissue[outer < 1] = TISSUES["fat"]
    tissue[inner < 1] = TISSUES["muscle"]
    tissue[np.hypot(x / (136 - fat), (y + 2) / (94 - fat)) < 1] = TISSUES["fat"]
    bowel = np.sin(x / 13 + rng.uniform(0, 6)) + np.sin(y / 11 + rng.uniform(0, 6)) + np.sin(z / 14 + rng.uniform(0, 6))
    tissue[(bowel > 0.4) & (tissue == TISSUES["fat"]) & (inner < 0.8) & (z < -5) & (y < 20)] = TISSUES["bowel"]
    for side in (-1, 1):
        lung = ((x - side * 74) / 52) ** 2 + ((y - 8) / 66) ** 2 + ((z - 140) / 80) ** 2 < 1
        tissue[lung & (inner < 1)] = TISSUES["lung"]
        psoas = np.hypot((x - side * 38) / 20, (y - 56) / 20) < 1
        tissue[psoas & (z < 20)] = TISSUES["muscle"]
    tissue[np.hypot(x / 24, (y - 62) / 20) < 1] = TISSUES["bone"]
    return tissue


def _vary(rng: np.random.Generator, shift_mm: float = 5) -> tuple[np.ndarray, np.ndarray, float]:
    """Shift in mm (3), factor of size (3) and extra rotation in degrees of one organ."""
    return rng.normal(0, shift_mm / 2, 3).clip(-shift_mm, shift_mm), rng.uniform(0.88, 1.12, 3), rng.uniform(-8, 8)


@dataclass(frozen=True)
class _Part:
    """A piece of an organ: where to look for it, and a test of coordinates relative to its middle.

    Attributes:
        middle: x, y, z in mm.
        reach: half the edges of a box around it, x, y, z in mm.
        inside: maps offsets x, y, z from the middle to a mask.
    """

    middle: np.ndarray
    reach: np.ndarray
    inside: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class _Canvas:
    """A tissue map that is painted part by part, each time only where the part can be."""

    def __init__(self, tissue: np.ndarray, grid: Coordinates) -> None:
        self.tissue = tissue
        self.grid = grid
        others = ((1, 2), (0, 2), (0, 1))
        self.low = [axis.min(axis=other) for axis, other in zip(grid, others, strict=True)]
        self.high = [axis.max(axis=other) for axis, other in zip(grid, others, strict=True)]

    def paint(self, part: _Part, value: int) -> None:
        box = []
        for low, high, middle, reach in zip(self.low, self.high, part.middle[::-1], part.reach[::-1], strict=True):
            hits = np.flatnonzero((high >= middle - reach) & (low <= middle + reach))
            if not hits.size:
                return
            box.append(slice(int(hits[0]), int(hits[-1]) + 1))
        z, y, x = (axis[tuple(box)] for axis in self.grid)
        region = part.inside(*(c - np.float32(m) for c, m in zip((x, y, z), part.middle, strict=True)))
        view = self.tissue[tuple(box)]
        view[region & (view != TISSUES["air"])] = value


def _ellipsoids(organ: str, rng: np.random.Generator) -> Iterator[_Part]:
    shift, size, turn = _vary(rng)
    for centre, semi_axes, rotation in _ELLIPSOIDS[organ]:
        a, b, c = (float(v) for v in np.asarray(semi_axes) * size)
        cos, sin = (float(f(np.deg2rad(rotation + turn))) for f in (np.cos, np.sin))

        def inside(
            x: np.ndarray,
            y: np.ndarray,
            z: np.ndarray,
            a: float = a,
            b: float = b,
            c: float = c,
            k: float = cos,
            s: float = sin,
        ) -> np.ndarray:
            return ((k * x + s * y) / a) ** 2 + ((k * y - s * x) / b) ** 2 + (z / c) ** 2 < 1

        yield _Part(np.asarray(centre) + shift, np.array([max(a, b), max(a, b), c]), inside)


def _tube(organ: str, rng: np.random.Generator) -> Iterator[_Part]:
    centre_line, (first_radius, last_radius) = _TUBES[organ]
    shift, size, _ = _vary(rng, shift_mm=3)
    points = np.asarray(centre_line, float) + shift
    radii = np.linspace(first_radius, last_radius, len(points)) * size[0]
    for start, end, r0, r1 in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
        half = (end - start) / 2

        def inside(
            x: np.ndarray, y: np.ndarray, z: np.ndarray, h: np.ndarray = half, r0: float = r0, r1: float = r1
        ) -> np.ndarray:
            hx, hy, hz = (float(v) for v in h)
            t = np.clip((x * hx + y * hy + z * hz) / float(h @ h), -1, 1)  # -1 at the start, 1 at the end
            radius = float(r0 + r1) / 2 + t * (float(r1 - r0) / 2)
            return (x - t * hx) ** 2 + (y - t * hy) ** 2 + (z - t * hz) ** 2 < radius**2

        yield _Part(start + half, np.abs(half) + max(r0, r1), inside)


def _cut_at_diaphragm(tissue: np.ndarray, grid: Coordinates) -> None:
    """Of the organs only vessels and oesophagus pass the diaphragm."""
    z = np.broadcast_to(grid[0], tissue.shape)
    for organ in ("liver", "stomach", "spleen"):
        tissue[(tissue == TISSUES[organ]) & (z > 92)] = TISSUES["fat"]


def _add_lesions(tissue: np.ndarray, grid: Coordinates, rng: np.random.Generator) -> None:
    """One to three round tumours of 8-20 mm radius inside each organ of :data:`LESIONS`."""
    shape = tissue.shape
    z, y, x = (np.broadcast_to(c, shape) for c in grid)
    for organ, lesion in LESIONS.items():
        region = tissue == TISSUES[organ]
        inner = ndimage.binary_erosion(region)
        seats = np.argwhere(inner if inner.any() else region)
        if not len(seats):  # on a very coarse grid
            continue
        for _ in range(int(rng.integers(1, 4))):
            seat = tuple(seats[rng.integers(len(seats))])
            distance2 = (z - z[seat]) ** 2 + (y - y[seat]) ** 2 + (x - x[seat]) ** 2
            tissue[region & (distance2 < rng.uniform(8, 20) ** 2)] = TISSUES[lesion]
        # an organ that is nothing but tumour would leave a label class empty
        if not (tissue == TISSUES[organ]).any():
            tissue[tuple(seats[0])] = TISSUES[organ]
