"""Figures of the reports, as SVG text to be put into the page."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from nnunet_ext.core.figure_style import GRID, MUTED, PALETTE, figure_style
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.statistics import PairedResult
from nnunet_ext.evaluation.tables import class_name, column_head

_SQUEEZE = 3.0  # how much longer than the bulk of the values the axis may be
_CROWD = 250  # points beyond which a cloud hides more than it shows


def box_plots(
    models: Mapping[str, Evaluation], labels: Sequence[str], name: str, identifier: str
) -> tuple[str, list[str]]:
    """Box plots of one metric, a group per class and a box per model, all cases as dots.

    Args:
        models: Evaluations by name.
        labels: Classes, left to right.
        name: Metric.
        identifier: Prefix of element ids, unique in the page.

    Returns:
        SVG text, and the text to show on each dot in the order of the SVG's dots.
    """
    described = metric(name)
    several = len(models) > 1
    n_boxes = len(labels) * len(models)
    width = min(12.0, max(3.6, 1.4 + 0.34 * n_boxes))
    with figure_style():
        figure = Figure(figsize=(width, 2.9), layout="constrained")
        axes = figure.add_subplot()
        tips: list[str] = []
        step = 0.8 / len(models)
        groups = {
            (row, column): evaluation.per_case(label)[name].dropna() * described.shown_factor
            for row, evaluation in enumerate(models.values())
            for column, label in enumerate(labels)
        }
        limits = axis_limits([values.to_numpy() for values in groups.values()])
        outside = 0
        for (row, column), values in groups.items():
            if values.empty:
                continue
            position = column + (row - (len(models) - 1) / 2) * step
            colour = PALETTE[(row if several else column) % len(PALETTE)]
            outside += _box(
                axes, values.to_numpy(), limits, position, step * 0.62, colour, f"{identifier}-{row}-{column}"
            )
            if values.size <= _CROWD:
                prefix = f"{list(models)[row]}, " if several else ""
                tips += [f"{prefix}{case}: {value:.4g} {described.shown_unit}" for case, value in values.items()]
        if described.direction == "zero":
            axes.axhline(0, color=MUTED, linewidth=0.8, zorder=1)
        axes.set_ylim(*limits)
        _dress(axes, labels, f"{described.title} ({described.shown_unit})")
        if outside:
            words = "1 value lies" if outside == 1 else f"{outside} values lie"
            axes.set_title(f"{words} beyond the axis: triangles", fontsize=8, color="#be123c", loc="right")
        return svg_text(figure, column_head(described), identifier), tips


def axis_limits(groups: Sequence[npt.NDArray[np.float64]]) -> tuple[float, float]:
    """Axis limits: all values, unless a few distant ones would flatten every box to a line; means always within."""
    everything = np.concatenate([g[np.isfinite(g)] for g in groups])
    if everything.size == 0:
        return 0.0, 1.0
    low, high = float(everything.min()), float(everything.max())
    near_low, near_high = np.inf, -np.inf
    for group in groups:
        finite = group[np.isfinite(group)]
        if finite.size:
            lower, upper = np.percentile(finite, (25, 75))
            reach = 3 * (upper - lower)
            near = finite[(finite >= lower - reach) & (finite <= upper + reach)]
            near_low, near_high = min(near_low, near.min()), max(near_high, near.max())
    if near_high > near_low and high - low > _SQUEEZE * (near_high - near_low):
        # The diamond of a mean that distant values have pulled away belongs on the axis, or the box would mislead.
        means = [float(group.mean()) for group in groups if group.size and np.isfinite(group).all()]
        low, high = float(min(near_low, *means, near_low)), float(max(near_high, *means, near_high))
    margin = 0.08 * (high - low) or 0.5
    return low - margin, high + margin


def _box(
    axes: Axes,
    values: npt.NDArray[np.float64],
    limits: tuple[float, float],
    position: float,
    width: float,
    colour: str,
    identifier: str,
) -> int:
    """Draw a box with its dots; returns how many values lie beyond the limits, drawn as triangles at the edge."""
    finite = values[np.isfinite(values)]
    if finite.size:
        drawn = axes.boxplot(finite, positions=[position], widths=width, patch_artist=True, showfliers=False, zorder=2)
        for patch in drawn["boxes"]:
            patch.set(facecolor=colour + "26", edgecolor=colour, linewidth=1.1)
        for line in (*drawn["whiskers"], *drawn["caps"]):
            line.set(color=colour, linewidth=1.0)
        for line in drawn["medians"]:
            line.set(color=colour, linewidth=2.0, solid_capstyle="butt")
    if finite.size == values.size and limits[0] <= values.mean() <= limits[1]:
        mean = axes.scatter(
            [position], [values.mean()], s=22, marker="D", facecolor="white", edgecolor=colour, zorder=4
        )
        mean.set_linewidth(1.1)
    beyond = np.sign(np.where(values < limits[0], -1, np.where(values > limits[1], 1, 0)))
    # Spread by rank, not by chance: the page is the same every time.
    x = position + ((np.arange(values.size) * 0.618034) % 1 - 0.5) * width * 0.75
    points: dict[str, Any] = {"linestyle": "none", "color": colour, "markeredgewidth": 0}
    if values.size <= _CROWD:
        (dots,) = axes.plot(x, np.clip(values, *limits), marker="o", markersize=3.2, alpha=0.65, zorder=3, **points)
        dots.set_gid(f"dots-{identifier}")
    for side, marker in ((-1, "v"), (1, "^")):
        there = x[beyond == side]
        edge = np.full(there.size, limits[0] if side < 0 else limits[1])
        axes.plot(there, edge, marker=marker, markersize=6, clip_on=False, zorder=5, **points)
    return int(np.count_nonzero(beyond))


def _dress(axes: Axes, labels: Sequence[str], title: str) -> None:
    longest = max(map(len, labels))
    crowded = len(labels) * longest > 46
    axes.set_xticks(
        range(len(labels)), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center", fontsize=8.5
    )
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel(title)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0)


def difference_plot(results: Sequence[PairedResult], name: str, identifier: str) -> str:
    """Mean paired differences of one metric with their bootstrap intervals, a line per class and pair.

    Args:
        results: Comparisons, all of the metric ``name``.
        name: Metric.
        identifier: Prefix of element ids, unique in the page.
    """
    described = metric(name)
    drawn = [r for r in results if np.isfinite([r.difference, r.low, r.high]).all()]
    several = len({(r.first, r.second) for r in results}) > 1
    with figure_style():
        figure = Figure(figsize=(4.8, 0.8 + 0.32 * max(1, len(drawn))), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=0.9)
        names = []
        for row, r in enumerate(drawn):
            low, mean, high = (v * described.shown_factor for v in (r.low, r.difference, r.high))
            significant = r.p_holm < 0.05
            better = r.wins > r.losses
            colour = (PALETTE[0] if better else PALETTE[3]) if significant else MUTED
            axes.plot([low, high], [row, row], color=colour, linewidth=2.4, solid_capstyle="round")
            axes.scatter([mean], [row], s=34, color=colour, zorder=3)
            what = class_name(r.label)
            names.append(f"{what}, {r.second} − {r.first}" if several else what)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        pair = "difference" if several or not drawn else f"{drawn[0].second} − {drawn[0].first}"
        axes.set_xlabel(f"{described.title} ({described.shown_unit}), {pair}")
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(GRID)
        axes.tick_params(length=0)
        return svg_text(figure, f"Paired differences of {described.title}", identifier)


def svg_text(figure: Figure, description: str, identifier: str) -> str:
    """The figure as an SVG element for a page: the same bytes every time, ids unique in the page.

    Args:
        figure: Drawn under :func:`~nnunet_ext.core.figure_style.figure_style`.
        description: What a screen reader says.
        identifier: Prefix of element ids, unique in the page.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    svg = text[text.index("<svg") :]
    # Ids must be unique in the page: those that are referred to get the prefix, those for scripts stay, others go.
    wanted = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
    svg = re.sub(r'((?:href="|url\()#)', rf"\1{identifier}-", svg)

    def rename(match: re.Match[str]) -> str:
        name = match[1]
        if name in wanted:
            return f' id="{identifier}-{name}"'
        return match[0] if name.startswith("dots-") else ""

    svg = re.sub(r'\sid="([^"]+)"', rename, svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
