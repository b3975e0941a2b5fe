"""Figures of a benchmark, as SVG text to be put into the page and as files; the same bytes every time.

Every arm has one colour and one marker in all figures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from scipy.stats import rankdata

from nnunet_ext.benchmark.report.collect import Results
from nnunet_ext.benchmark.report.costs import Cost
from nnunet_ext.benchmark.report.ranks import Ranking
from nnunet_ext.benchmark.report.scores import Difference, Score
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.core.figure_style import GRID, MUTED, PALETTE, figure_style
from nnunet_ext.evaluation.figures import axis_limits, svg_text
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.tables import class_name

MARKERS = "os^DvPX*"
_SMOOTHED_FROM = 50  # epochs beyond which curves are smoothed as nnU-Net smooths its pseudo Dice
_POINTS = 200  # of a curve
_LINES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_Place = Literal["above", "below", "beside"]
_PLACES: dict[_Place, Literal["outside upper center", "outside lower center", "outside right upper"]] = {
    "above": "outside upper center",
    "below": "outside lower center",
    "beside": "outside right upper",
}
_RED = "#be123c"
_LEGEND_WIDTH = 92  # characters of a line of the legend of a wide figure


@dataclass(frozen=True)
class Drawing:
    """A figure for the page.

    Attributes:
        identifier: For elements of the page and names of files.
        title: Heading.
        explanation: How to read it.
        svg: The figure.
        tips: What each dot shows when pointed at, in the order of the dots.
        wide: Whether it takes the whole width of the page.
    """

    identifier: str
    title: str
    explanation: str
    svg: Markup
    tips: list[str]
    wide: bool


def colour(number: int) -> str:
    """Colour of an arm by its number in the specification."""
    return PALETTE[number % len(PALETTE)]


def marker(number: int) -> str:
    """Marker of an arm; beyond eight arms, colours come again with other markers."""
    return MARKERS[(number + number // len(PALETTE)) % len(MARKERS)]


def learning_curves(results: Results, setting: Setting) -> Drawing | None:
    """Pseudo Dice and training loss of all arms; ``None`` without any curve."""
    curves = _place(results.curves, setting)
    if curves.empty:
        return None
    names = results.specification.arm_names
    cells = _place(results.cells, setting)
    iterations = {arm: own.dropna() for arm, own in cells.groupby("arm")["iterations_per_epoch"]}
    lengths = {int(own.iloc[0]) for own in iterations.values() if len(own)}
    by_iteration = len(lengths) > 1
    smoothed = int(curves["epoch"].max()) + 1 > _SMOOTHED_FROM
    with figure_style():
        figure = Figure(figsize=(10.5, 3.9), layout="constrained")
        panels = figure.subplots(1, 2)
        drawn = []
        for number, arm in enumerate(names):
            own = curves[curves["arm"] == arm]
            if own.empty:
                continue
            drawn.append(number)
            factor = int(iterations[arm].iloc[0]) if by_iteration and len(iterations[arm]) else 1
            for axes, name in zip(panels, ("pseudo_dice", "train_loss"), strict=True):
                _curve(axes, own, name, number, factor, smoothed)
        for axes, title in zip(panels, ("Pseudo Dice", "Training loss (loss of each arm's own)"), strict=True):
            axes.set_xlabel("Training iteration" if by_iteration else "Epoch")
            axes.set_ylabel(title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _dress(axes, "both")
        _legend(figure, names, drawn, lines=True)
        cells_drawn = curves.groupby(["arm", "fold", "seed"]).ngroups
        explanation = f"Mean over the folds and seeds of each arm, band: ± std; {cells_drawn} trainings."
        if smoothed:
            explanation += " Smoothed as nnU-Net does, 0.9 of the last value."
        return _drawing(figure, f"curves-{setting.file_name}", "Learning curves", explanation, wide=True)


def _curve(axes: Axes, own: pd.DataFrame, name: str, number: int, factor: int, smoothed: bool) -> None:
    wide = own.pivot_table(index="epoch", columns=["fold", "seed"], values=name, aggfunc="last", dropna=False)
    if smoothed:
        wide = wide.ewm(alpha=0.1, adjust=False).mean()
    keep = np.unique(np.linspace(0, len(wide) - 1, min(len(wide), _POINTS)).round().astype(int))
    wide = wide.iloc[keep]
    x = (wide.index.to_numpy() + 1) * factor
    mean, std = wide.mean(axis=1), wide.std(axis=1, ddof=1)
    if wide.shape[1] > 1:
        axes.fill_between(x, mean - std, mean + std, color=colour(number), alpha=0.13, linewidth=0)
    shape = marker(number) if len(x) == 1 else None
    axes.plot(x, mean, color=colour(number), linewidth=1.6, linestyle=_line(number), marker=shape)


def _line(number: int) -> Literal["-", "--", ":", "-."]:
    return _LINES[number // len(PALETTE) % len(_LINES)]


def class_dots(scores: Sequence[Score], names: Sequence[str]) -> Drawing | None:
    """Mean of every class and arm in one metric and setting; ``None`` without a finite value."""
    if not any(np.isfinite(s.mean) for s in scores):
        return None
    first = scores[0]
    described = metric(first.metric)
    labels = list(dict.fromkeys(s.label for s in scores))
    arms = [number for number, arm in enumerate(names) if any(s.arm == arm for s in scores)]
    with figure_style():
        figure, axes = _rows_figure(len(labels), len(arms))
        for place, number in enumerate(arms):
            own = {s.label: s for s in scores if s.arm == names[number]}
            y = _dodged(len(labels), place, len(arms))
            means = np.array([own[label].mean for label in labels]) * described.shown_factor
            stds = np.array([_spread_shown(own[label]) for label in labels]) * described.shown_factor
            means[~np.isfinite(means)] = np.nan
            known = np.isfinite(stds) & np.isfinite(means)
            axes.hlines(
                y[known], (means - stds)[known], (means + stds)[known], color=colour(number), alpha=0.45, linewidth=1.4
            )
            axes.plot(means, y, linestyle="none", marker=marker(number), color=colour(number), markersize=4.2)
        _class_axis(figure, axes, labels)
        axes.set_xlabel(f"{described.title} ({described.shown_unit}) {described.arrow}")
        _legend(figure, names, arms, place="above")
        infinite = [f"{s.arm}, {class_name(s.label)}" for s in scores if np.isinf(s.mean)]
        return _drawing(
            figure,
            f"classes-{first.metric}-{first.setting.file_name}",
            f"{described.title} by class",
            "Mean over folds, line: ± std over folds (over seeds where there is one fold)."
            + (f" Infinite, so not drawn: {'; '.join(infinite)}." if infinite else ""),
            wide=len(labels) * len(arms) > 16,
        )


def _spread_shown(score: Score) -> float:
    return score.fold_std if np.isfinite(score.fold_std) else score.seed_std


def class_differences(differences: Sequence[Difference], names: Sequence[str]) -> Drawing | None:
    """Paired differences of every class and arm with their intervals; ``None`` where nothing is paired."""
    if not any(np.isfinite(d.difference) for d in differences):
        return None
    first = differences[0]
    described = metric(first.metric)
    labels = list(dict.fromkeys(d.label for d in differences))
    arms = [number for number, arm in enumerate(names) if any(d.arm == arm for d in differences)]
    with figure_style():
        figure, axes = _rows_figure(len(labels), len(arms))
        axes.axvline(0, color=MUTED, linewidth=0.9)
        for place, number in enumerate(arms):
            own = {d.label: d for d in differences if d.arm == names[number]}
            rows = [own[label] for label in labels]
            table = np.array([(d.low, d.difference, d.high) for d in rows]) * described.shown_factor
            table[~np.isfinite(table)] = np.nan
            y = _dodged(len(labels), place, len(arms))
            known = ~np.isnan(table).any(axis=1)
            axes.hlines(y[known], table[known, 0], table[known, 2], color=colour(number), linewidth=1.6)
            significant = np.array([d.p_holm < 0.05 for d in rows])
            for chosen, fill in ((significant, colour(number)), (~significant, "white")):
                points: dict[str, Any] = {"linestyle": "none", "markersize": 4.6, "zorder": 4, "markerfacecolor": fill}
                axes.plot(table[chosen, 1], y[chosen], marker=marker(number), color=colour(number), **points)
        _class_axis(figure, axes, labels)
        axes.set_xlabel(_difference_head(first))
        _legend(figure, names, arms, place="above")
        infinite = [f"{d.arm}, {class_name(d.label)}" for d in differences if d.cases and not np.isfinite(d.difference)]
        return _drawing(
            figure,
            f"class-differences-{first.metric}-{first.setting.file_name}",
            f"{described.title}: differences by class",
            f"Arm − {first.reference}, mean over cases with 95 % interval; filled where p (Holm) < 0.05."
            + (f" Not finite, so not drawn: {'; '.join(infinite)}." if infinite else ""),
            wide=len(labels) * len(arms) > 16,
        )


def case_dots(differences: Sequence[Difference], names: Sequence[str]) -> Drawing | None:
    """Paired differences case by case, a row per arm; of one metric and class. ``None`` where nothing is paired."""
    drawn = [d for d in differences if d.cases]
    if not drawn:
        return None
    first = drawn[0]
    described = metric(first.metric)
    values = [d.per_case.to_numpy(float) * described.shown_factor for d in drawn]
    tips: list[str] = []
    identifier = f"cases-{first.metric}-{first.setting.file_name}"
    with figure_style():
        figure = Figure(figsize=(5.8, 1.0 + 0.62 * len(drawn)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=MUTED, linewidth=0.9)
        low, high = axis_limits([*values, np.zeros(1)])
        outside = 0
        for row, (one, own) in enumerate(zip(drawn, values, strict=True)):
            number = names.index(one.arm)
            # Spread by rank, not by chance: the page is the same every time.
            y = row - 0.1 + ((np.arange(own.size) * 0.618034) % 1 - 0.5) * 0.42
            points: dict[str, Any] = {"linestyle": "none", "color": colour(number), "markeredgewidth": 0}
            (dots,) = axes.plot(np.clip(own, low, high), y, marker="o", markersize=3.4, alpha=0.5, zorder=2, **points)
            dots.set_gid(f"dots-{identifier}-{row}")
            tips += [
                f"{one.arm}, {case}: {value:+.4g} {described.shown_unit}".replace("-", "−")
                for case, value in zip(one.per_case.index, own.tolist(), strict=True)
            ]
            for beyond, edge, shape in ((own < low, low, "<"), (own > high, high, ">")):
                if beyond.any():
                    axes.plot(
                        np.full(beyond.sum(), edge), y[beyond], marker=shape, markersize=6, clip_on=False, **points
                    )
                    outside += int(beyond.sum())
            interval = np.array([one.low, one.high]) * described.shown_factor
            if np.isfinite(interval).all():
                axes.hlines(row + 0.3, *np.clip(interval, low, high), color=colour(number), linewidth=2.2)
            if np.isfinite(one.difference):
                mean = float(np.clip(one.difference * described.shown_factor, low, high))
                axes.plot(mean, row + 0.3, marker="D", color=colour(number), markerfacecolor="white", markersize=5.5)
        axes.set_xlim(low, high)
        axes.set_yticks(range(len(drawn)), [_wrapped(d.arm, 28) for d in drawn])
        axes.set_ylim(len(drawn) - 0.45, -0.5)
        axes.set_xlabel(_difference_head(first))
        _dress(axes, "x")
        if outside:
            words = "1 value lies" if outside == 1 else f"{outside} values lie"
            axes.set_title(f"{words} beyond the axis: triangles", fontsize=8, color=_RED, loc="right")
        what = "" if first.label is None else f" of {class_name(first.label)}"
        return _drawing(
            figure,
            identifier,
            f"{described.title}{what}: differences case by case",
            "A dot is a case, the mean of its seeds; diamond: mean over cases, line: its 95 % interval.",
            tips=tips,
        )


def cost_and_gain(costs: Sequence[Cost], differences: Sequence[Difference], names: Sequence[str]) -> Drawing | None:
    """Time of an epoch against the paired difference, both to the reference; ``None`` without two arms."""
    ratios = {c.arm: c.ratio_epoch for c in costs if np.isfinite(c.ratio_epoch)}
    drawn = [d for d in differences if d.arm in ratios and np.isfinite(d.difference)]
    if not drawn:
        return None
    first = drawn[0]
    described = metric(first.metric)
    with figure_style():
        figure = Figure(figsize=(5.8, 3.5), layout="constrained")
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=0.9)
        axes.plot(1, 0, marker=marker(0), color=colour(0), markersize=7, linestyle="none", zorder=4)
        for one in drawn:
            number = names.index(one.arm)
            low, mean, high = (v * described.shown_factor for v in (one.low, one.difference, one.high))
            if np.isfinite([low, high]).all():
                axes.vlines(ratios[one.arm], low, high, color=colour(number), linewidth=1.6)
            axes.plot(ratios[one.arm], mean, marker=marker(number), color=colour(number), markersize=6, zorder=4)
        axes.set_xlabel(f"Time of an epoch, relative to {first.reference}")
        axes.set_ylabel(_difference_head(first, 40))
        axes.margins(0.1)
        _dress(axes, "both")
        _legend(figure, names, [0, *(names.index(d.arm) for d in drawn)], place="beside")
        return _drawing(
            figure,
            f"cost-{first.metric}-{first.setting.file_name}",
            f"{described.title}: cost beside gain",
            "Paired difference with its 95 % interval, against the time of an epoch on the same device.",
        )


def rank_plot(rankings: Sequence[Ranking], names: Sequence[str], identifier: str) -> Drawing:
    """Share of the resamples in which each arm has each rank, a panel per dataset; best arm on top.

    Args:
        rankings: Of one metric; the last one orders the arms.
        names: All arms.
        identifier: For elements of the page and names of files.
    """
    last = rankings[-1]
    described = metric(last.metric)
    order = [last.arms[i] for i in np.argsort(last.ranks, kind="stable")]
    order += [arm for arm in names if arm not in order and any(arm in r.arms for r in rankings)]
    columns = min(len(rankings), 4 if len(order) <= 5 else 3)
    rows = -(-len(rankings) // columns)
    with figure_style():
        size = (1.6 + columns * max(2.3, 0.33 * len(order)), rows * (1.0 + 0.36 * len(order)))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in panels.flat[len(rankings) :]:
            axes.set_visible(False)
        for ranking, axes in zip(rankings, panels.flat, strict=False):
            places = rankdata(ranking.ranks)
            for row, arm in enumerate(order):
                if arm not in ranking.arms:
                    axes.text(1, row, "not finished", fontsize=8, color=MUTED, va="center", ha="left")
                    continue
                own, number = ranking.arms.index(arm), names.index(arm)
                shares = ranking.share(own)
                area = [230 * share for share in shares.values()]
                axes.scatter(list(shares), [row] * len(shares), s=area, color=colour(number), alpha=0.55, linewidth=0)
                axes.plot(places[own], row, marker="|", color="black", markersize=11, markeredgewidth=1.4)
            axes.set_title(_wrapped(ranking.title, 32), fontsize=9)
            axes.set_xlim(0.4, len(order) + 0.6)
            axes.set_xticks(range(1, len(order) + 1))
            axes.set_yticks(range(len(order)), [_wrapped(arm, 28) for arm in order])
            axes.set_ylim(len(order) - 0.4, -0.6)
            _dress(axes, "both")
        figure.supxlabel(f"Rank by {described.title}, 1 is best", fontsize=9)
        return _drawing(
            figure,
            identifier,
            f"Ranks by {described.title}",
            "Area: share of the resamples of the cases in which an arm has this rank; bar: its rank on all cases.",
            wide=size[0] > 6,
        )


def _place(table: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    return table[
        (table["dataset"] == setting.dataset)
        & (table["configuration"] == setting.configuration)
        & (table["plans"] == setting.plans)
    ]


def _rows_figure(rows: int, arms: int) -> tuple[Figure, Axes]:
    height = 1.1 + 0.08 * arms + rows * (0.16 + 0.075 * arms)
    figure = Figure(figsize=(9.5 if rows * arms > 16 else 5.8, height), layout="constrained")
    return figure, figure.add_subplot()


def _dodged(rows: int, place: int, places: int) -> np.ndarray:
    return np.arange(rows) + (place - (places - 1) / 2) * 0.78 / places


def _class_axis(figure: Figure, axes: Axes, labels: Sequence[str | None]) -> None:
    axes.set_yticks(range(len(labels)), [_wrapped(class_name(label), 34) for label in labels])
    axes.set_ylim(len(labels) - 0.45, -0.55)
    if figure.get_figheight() > 7:  # no screen shows both ends of it
        axes.tick_params(axis="x", labeltop=True)
    for row in range(1, len(labels)):
        axes.axhline(row - 0.5, color=GRID, linewidth=0.8, zorder=0)
    _dress(axes, "x")


def _difference_head(one: Difference, width: int = 60) -> str:
    described = metric(one.metric)
    better = {"higher": "higher is better", "lower": "lower is better", "zero": "signed"}[described.direction]
    return _wrapped(f"{described.title} ({described.shown_unit}), arm − {one.reference}, {better}", width)


def _wrapped(text: str, width: int) -> str:
    """The text in lines, broken at spaces and within names at underscores, hyphens and capitals."""
    text = " ".join(text.split()) or repr(text)
    lines = [""]
    for piece in re.split(r"(?<=[ _/-])|(?<=[a-z])(?=[A-Z])", text):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _legend(
    figure: Figure, names: Sequence[str], drawn: Sequence[int], place: _Place = "below", lines: bool = False
) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=colour(number),
            marker="" if lines else marker(number),
            linestyle=_line(number) if lines else "none",
            linewidth=2,
            markersize=5.5,
            label=_wrapped(names[number], 24 if place == "beside" else 40),
        )
        for number in drawn
    ]
    columns = 1
    if place != "beside":
        width = _LEGEND_WIDTH if figure.get_figwidth() > 8 else 58
        longest = max(len(line) for handle in handles for line in str(handle.get_label()).splitlines())
        columns = max(1, min(len(handles), width // (longest + 6)))
    figure.legend(handles=handles, loc=_PLACES[place], ncols=columns, frameon=False, fontsize=8.5)


def _dress(axes: Axes, grid: Any) -> None:
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.tick_params(length=0)


def _drawing(
    figure: Figure,
    identifier: str,
    title: str,
    explanation: str,
    tips: list[str] | None = None,
    wide: bool = False,
) -> Drawing:
    # The SVG is made by matplotlib, which escapes the names in it.
    return Drawing(identifier, title, explanation, Markup(svg_text(figure, title, identifier)), tips or [], wide)
