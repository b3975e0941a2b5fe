"""Reports as one self-contained HTML file: of one evaluation, and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from nnunet_ext import __version__
from nnunet_ext.core.figure_style import PALETTE
from nnunet_ext.evaluation.figures import box_plots, difference_plot
from nnunet_ext.evaluation.metrics import Metric, metric
from nnunet_ext.evaluation.overlays import PREDICTION_COLOUR, REFERENCE_COLOUR, Overlay
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.statistics import PairedResult
from nnunet_ext.evaluation.tables import (
    Table,
    class_name,
    classes_table,
    column_head,
    default_metrics,
    labels_and_mean,
    mean_std,
    metrics_table,
    number,
    p_value,
    shown,
    summary_table,
)

_PRESENCE_WORDS = {
    "both": "in both",
    "missed": "missed",
    "false_positive": "false positive",
    "absent": "in neither",
    "unannotated": "not annotated",
}


@dataclass(frozen=True)
class _Figure:
    title: str
    explanation: str
    svg: Markup
    tips: list[str]
    identifier: str
    wide: bool


@dataclass(frozen=True)
class _Tile:
    title: str
    value: str
    detail: str


def page_environment() -> jinja2.Environment:
    """Templates of pages, with what they call."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nnunet_ext.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(version=__version__, shown=shown, number=number, p_value=p_value, head=column_head)
    return environment


def evaluation_report(evaluation: Evaluation, overlays: Sequence[Overlay], title: str) -> str:
    """HTML of one evaluation.

    Args:
        evaluation: The result.
        overlays: Pictures of the worst cases, worst first.
        title: Heading.
    """
    names = default_metrics(evaluation.conventions)
    labels = [t.name for t in evaluation.targets]
    counts = evaluation.counts()
    case_metrics = [metric(n) for n in names]
    rows = {(row["case"], row["label"]): row for row in evaluation.table.to_dict("records")}
    return (
        page_environment()
        .get_template("evaluation.html.j2")
        .render(
            title=title,
            evaluation=evaluation,
            tiles=_tiles(evaluation),
            alerts=_alerts(evaluation),
            figures=_figures({"prediction": evaluation}, labels, names),
            summary=summary_table(evaluation, names),
            counts=[(label, row) for label, row in counts.to_dict("index").items()],
            global_dice=evaluation.dataset_level(),
            overlays=[(o, rows[o.case, o.label]) for o in overlays],
            colours=(REFERENCE_COLOUR, PREDICTION_COLOUR),
            case_metrics=case_metrics,
            case_rows=_case_rows(evaluation, case_metrics),
            presence_words=_PRESENCE_WORDS,
            conventions=evaluation.conventions.describe(),
            definitions=[metric(n) for n in evaluation.metrics],
        )
    )


def comparison_report(
    models: Mapping[str, Evaluation], results: Sequence[PairedResult], notes: Sequence[str], title: str
) -> str:
    """HTML of a comparison.

    Args:
        models: Evaluations by name, the first is the one compared with.
        results: Paired comparisons.
        notes: What the reader must know about the cases.
        title: Heading.
    """
    first = next(iter(models.values()))
    names = default_metrics(first.conventions)
    labels = [t.name for t in first.targets]
    compared = list(dict.fromkeys(r.metric for r in results))
    return (
        page_environment()
        .get_template("comparison.html.j2")
        .render(
            title=title,
            models=list(zip(models, PALETTE * (1 + len(models) // len(PALETTE)), strict=False)),
            n_cases=len(first.cases),
            notes=notes,
            verdicts=_verdicts(results),
            figures=_figures(models, labels, list(dict.fromkeys([*compared, *names]))),
            differences=[
                (metric(name), Markup(difference_plot([r for r in results if r.metric == name], name, f"d{i}")))
                for i, name in enumerate(compared)
            ],
            tables=comparison_tables(models),
            results=[(metric(r.metric), class_name(r.label), r) for r in results],
            conventions=first.conventions.describe(),
            definitions=[metric(n) for n in names],
        )
    )


def comparison_tables(models: Mapping[str, Evaluation]) -> list[Table]:
    """The papers' tables for several models: Dice by class first, then all metrics for each class and their mean."""
    first = next(iter(models.values()))
    names = default_metrics(first.conventions)
    by_class = [classes_table(models, "Dice")] if len(first.targets) > 1 else []
    return by_class + [metrics_table(models, label, names) for label in labels_and_mean(first)]


def _figures(models: Mapping[str, Evaluation], labels: Sequence[str], names: Sequence[str]) -> list[_Figure]:
    figures = []
    for i, name in enumerate(names):
        described = metric(name)
        svg, tips = box_plots(models, labels, name, f"f{i}")
        wide = len(labels) * len(models) > 8
        title = f"{described.title} {described.arrow}"
        # The SVG is made by matplotlib, which escapes the names in it.
        figures.append(_Figure(title, described.explanation, Markup(svg), tips, f"f{i}", wide))
    return figures


def _tiles(evaluation: Evaluation) -> list[_Tile]:
    per_case = evaluation.per_case(None)
    several = len(evaluation.targets) > 1
    detail = "mean ± std over cases" + (", classes averaged" if several else "")
    scores = [n for n in evaluation.metrics if n.endswith("_score")]
    names = [*scores, "Dice", "HD95", "ASSD", *(n for n in evaluation.metrics if n.startswith("NSD_"))][:4]
    tiles = []
    for name in names:
        described = metric(name)
        values = per_case[name]
        unit = described.shown_unit
        text = mean_std(described, float(values.mean()), float(values.std()))
        tiles.append(_Tile(described.title, f"{text} {unit}", detail))
    return tiles


def _alerts(evaluation: Evaluation) -> list[str]:
    counts = evaluation.counts()
    alerts = list(evaluation.notes)
    for presence, words in (("missed", "missed"), ("false_positive", "predicted where the reference has none")):
        found = counts[counts[presence] > 0][presence]
        where = ", ".join(f"{label} in {n} {'case' if n == 1 else 'cases'}" for label, n in found.items())
        if where:
            alerts.append(f"Class {words}: {where}.")
    table = evaluation.table
    for _, row in table[(table["presence"] == "both") & (table["Dice"] == 0)].iterrows():
        alerts.append(f"{row['case']}: prediction and reference of {row['label']} do not overlap.")
    alerts += [f"{case['case']} {case['note']}." for case in evaluation.cases if case["note"]]
    return alerts


def _case_rows(evaluation: Evaluation, described: Sequence[Metric]) -> list[dict[str, Any]]:
    """Rows of the case table; ``shade`` runs from 0 (best of the column) to 1 (worst) among the finite values."""
    table = evaluation.table
    shades = {}
    for d in described:
        loss = d.loss(table[d.name])
        finite = loss[np.isfinite(loss)]
        if finite.size and finite.max() > finite.min():
            # By rank: one missed organ must not bleach all the others.
            shades[d.name] = np.searchsorted(np.sort(finite), loss) / max(finite.size - 1, 1)
        else:
            shades[d.name] = np.zeros(len(table))
    rows = []
    for i, row in enumerate(table.to_dict("records")):
        cells = [
            {"text": shown(d, row[d.name]), "value": row[d.name], "shade": min(1.0, float(shades[d.name][i]))}
            for d in described
        ]
        rows.append({"case": row["case"], "label": row["label"], "presence": row["presence"], "cells": cells})
    return rows


def _p_words(p: float) -> str:
    text = p_value(p)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def _verdicts(results: Sequence[PairedResult]) -> list[tuple[str, str]]:
    """A sentence per pair of models and metric, for the mean over classes or the only class."""
    overall = None if any(r.label is None for r in results) else results[0].label
    verdicts = []
    for r in results:
        if r.label != overall:
            continue
        described = metric(r.metric)
        change = shown(described, r.difference)
        sign = "+" if r.difference > 0 else ""
        interval = f"[{shown(described, r.low)}, {shown(described, r.high)}]"
        if not r.p_holm < 0.05:
            kind, words = "even", f"no significant difference from {r.first}"
        elif r.wins > r.losses:
            kind, words = "better", f"better than {r.first}"
        else:
            kind, words = "worse", f"worse than {r.first}"
        unit = described.shown_unit
        verdicts.append(
            (
                kind,
                f"{r.second}: {described.title} {words}, {sign}{change} {unit} {interval}, "
                f"{r.wins} wins, {r.losses} losses, p {_p_words(r.p_holm)}",
            )
        )
    return verdicts
