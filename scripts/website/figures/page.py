"""A page to draw on: boxes, arrows and pictures, in pixels as a reader sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from figures.abdomen import ORGANS
from nnunet_ext.core.figure_style import INK, MUTED, PALETTE, figure_style

WIDTH = 760  # pixels of the page, in which everything here is given
_PER_INCH, _SHARPNESS = 100, 2  # of these pixels; the file has twice as many
_COLOURS = 255  # of the file
TEAL, AMBER, BLUE = PALETTE[0], PALETTE[1], PALETTE[2]
DIFFERENCE = "#ef4444"
# Relative sizes of the stages of a network.
UNET, DISCRIMINATOR, BACKBONE = (1, 0.72, 0.46, 0.26, 0.46, 0.72, 1), (1, 0.72, 0.46, 0.26), (1, 0.6, 0.6, 0.6)
DASHES = (0, (4, 2.5))


@dataclass(frozen=True)
class Rect:
    """Where something is on the page: left, top, width and height."""

    x: float
    y: float
    w: float
    h: float

    def at(self, across: float, down: float) -> tuple[float, float]:
        """A point, 0 to 1 from the left and from the top."""
        return self.x + across * self.w, self.y + down * self.h

    @property
    def left(self) -> tuple[float, float]:
        """Middle of the left edge; as are the other three."""
        return self.at(0, 0.5)

    @property
    def right(self) -> tuple[float, float]:  # noqa: D102
        return self.at(1, 0.5)

    @property
    def top(self) -> tuple[float, float]:  # noqa: D102
        return self.at(0.5, 0)

    @property
    def bottom(self) -> tuple[float, float]:  # noqa: D102
        return self.at(0.5, 1)


def tint(colour: str, share: float = 0.12) -> tuple[float, ...]:
    """A colour mixed with white."""
    return tuple(1 - share * (1 - part) for part in to_rgb(colour))


def _before(start: tuple[float, float], end: tuple[float, float]) -> tuple[float, float]:
    """A point of the line to ``end``, shortly before it."""
    way = np.subtract(end, start)
    x, y = end - 7 * way / np.hypot(*way)
    return float(x), float(y)


class Page:
    """A white figure as wide as the text of a page, with the origin at the top left.

    What is used in training alone is dashed; what is solid is used in prediction too.

    Args:
        height: in pixels of the page.
    """

    def __init__(self, height: int) -> None:
        self._figure = Figure(figsize=(WIDTH / _PER_INCH, height / _PER_INCH), dpi=_PER_INCH * _SHARPNESS)
        self.words: list[str] = []
        self.axes: Axes = self._figure.add_axes((0, 0, 1, 1))
        self._extent = (0, WIDTH, height, 0)
        self._fix()
        self.axes.set_axis_off()

    def _fix(self) -> None:
        """Keep what matplotlib would fit to the picture drawn last."""
        self.axes.set(xlim=self._extent[:2], ylim=self._extent[2:], aspect="auto")

    def text(
        self,
        place: tuple[float, float],
        words: str,
        size: float = 9,
        colour: str = INK,
        across: str = "center",
        down: str = "center_baseline",
        weight: str = "normal",
    ) -> None:
        """Words at a place; formulas between dollar signs."""
        self.words.append(words)
        self.axes.text(
            *place, words, size=size, color=colour, ha=across, va=down, weight=weight, parse_math=True, linespacing=1.25
        )

    def frame(self, rect: Rect, colour: str = MUTED, training: bool = False, fill: str | tuple = "none") -> None:
        """A box with round corners."""
        style = "round,pad=0,rounding_size=5"
        dashes = DASHES if training else "solid"
        self.axes.add_patch(
            FancyBboxPatch((rect.x, rect.y), rect.w, rect.h, style, ec=colour, fc=fill, lw=1.1, ls=dashes, zorder=0)
        )

    def box(self, rect: Rect, words: str, colour: str = AMBER, training: bool = True, size: float = 9) -> Rect:
        """Words in a box, such as a term of the loss."""
        self.frame(rect, colour, training, tint(colour))
        self.text(rect.at(0.5, 0.5), words, size, down="center")
        return rect

    def network(
        self,
        rect: Rect,
        words: str,
        training: bool = False,
        colour: str = TEAL,
        stages: Sequence[float] = UNET,
    ) -> Rect:
        """A network, its stages as bars, with its name below them."""
        self.frame(rect, colour, training, tint(colour))
        room = 14 * (words.count("\n") + 1) + 8
        pitch = min(11.0, (rect.w - 16) / len(stages))
        for i, stage in enumerate(stages):
            height = stage * (rect.h - room - 10)
            middle = rect.x + rect.w / 2 + (i - (len(stages) - 1) / 2) * pitch
            y = rect.y + 8 + (rect.h - room - 10 - height) / 2
            self.axes.add_patch(Rectangle((middle - 0.3 * pitch, y), 0.6 * pitch, height, color=colour, lw=0))
        self.text((rect.x + rect.w / 2, rect.y + rect.h - room / 2 - 1), words)
        return rect

    def arrow(
        self, *points: tuple[float, float], training: bool = False, colour: str | None = None, head: bool = True
    ) -> None:
        """A line through the points, with its head at the last one."""
        colour = colour or (AMBER if training else INK)
        self.axes.plot(*zip(*points, strict=True), ls=DASHES if training else "solid", lw=1.3, color=colour)
        if head:
            style = "-|>,head_length=4,head_width=2.2"
            end = {"arrowstyle": style, "lw": 1, "color": colour, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 1}
            self.axes.annotate("", points[-1], _before(points[-2], points[-1]), arrowprops=end)

    def plus(self, place: tuple[float, float], radius: float = 8) -> None:
        """Where two lines are added up."""
        self.axes.add_patch(Circle(place, radius, fc="white", ec=INK, lw=1.3))
        for x, y in ((radius / 2, 0), (0, radius / 2)):
            self.axes.plot((place[0] - x, place[0] + x), (place[1] - y, place[1] + y), color=INK, lw=1.3)

    def picture(
        self,
        rect: Rect,
        values: NDArray,
        title: str = "",
        cmap: str | Colormap = "gray",
        limits: tuple[float, float] = (0, 1),
    ) -> Rect:
        """Values (H, W), or colours (H, W, 3), with a title above."""
        extent = (rect.x, rect.x + rect.w, rect.y + rect.h, rect.y)
        self.axes.imshow(
            values, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent, interpolation="bilinear", zorder=1
        )
        self.axes.add_patch(Rectangle((rect.x, rect.y), rect.w, rect.h, fc="none", ec=MUTED, lw=0.6, zorder=1))
        self._fix()
        if title:
            self.text((rect.x + rect.w / 2, rect.y - 7), title, down="baseline")
        return rect

    def outline(
        self,
        rect: Rect,
        mask: NDArray,
        colour: str = "white",
        width: float = 1.2,
        fill: float = 0,
        style: str = "solid",
    ) -> None:
        """The border of a mask (H, W) that is shown in ``rect``, and its inside if ``fill`` is above 0."""
        rows, columns = mask.shape
        x = rect.x + (np.arange(columns) + 0.5) * rect.w / columns
        y = rect.y + (np.arange(rows) + 0.5) * rect.h / rows
        smooth = ndimage.gaussian_filter(mask.astype(float), 0.7)
        if fill:
            self.axes.contourf(x, y, smooth, levels=[0.5, 2], colors=[colour], alpha=fill, zorder=1)
        self.axes.contour(x, y, smooth, levels=[0.5], colors=[colour], linewidths=width, linestyles=style)
        self._fix()

    def segmentation(
        self, rect: Rect, image: NDArray, labels: NDArray, title: str = "", names: Sequence[str] = tuple(ORGANS)
    ) -> Rect:
        """Organs over a slice, of all organs or of those named."""
        self.picture(rect, image, title)
        for number, (name, colour) in enumerate(ORGANS.items(), start=1):
            if name in names and (labels == number).any():
                self.outline(rect, labels == number, colour, 1.0, fill=0.5)
        return rect

    def legend(self, x: float, y: float, dashed: bool = True) -> None:
        """What solid lines mean, and dashed ones where there are any."""
        entries = (("training and prediction", False, 172), ("training alone", True, 0))
        for words, training, width in entries if dashed else entries[:1]:
            self.arrow((x, y), (x + 26, y), training=training)
            self.text((x + 31, y), words, 8, MUTED, across="left")
            x += width

    @figure_style()
    def image(self) -> Image.Image:
        """The page as it is seen."""
        canvas = FigureCanvasAgg(self._figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")

    def save(self, file: Path) -> None:
        """Write a PNG file, of few colours, so that it is small, and with the words as its description."""
        description = PngInfo()
        description.add_itxt("Description", "\n".join(self.words))
        few = self.image().quantize(_COLOURS, kmeans=1, dither=Image.Dither.NONE)
        few.save(file, optimize=True, pnginfo=description)
