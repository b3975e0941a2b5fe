"""The report: one self-contained page, and the same as CSV, Markdown, LaTeX and SVG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import jinja2
import pandas as pd

from nnunet_ext import __version__
from nnunet_ext.benchmark.report import figures
from nnunet_ext.benchmark.report.collect import Results, collect
from nnunet_ext.benchmark.report.costs import Cost, Trouble, costs, troubles
from nnunet_ext.benchmark.report.figures import Drawing, colour
from nnunet_ext.benchmark.report.guard import refuse_unfair, remarks
from nnunet_ext.benchmark.report.ranks import RESAMPLES, Ranking, agreement, losses, rankings
from nnunet_ext.benchmark.report.scores import Difference, Score, Spread, differences, scores, spread
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.benchmark.report.tables import (
    agreement_table,
    as_csv,
    as_frame,
    class_difference_table,
    class_table,
    cost_table,
    difference_table,
    interval,
    overall,
    published_table,
    rank_table,
    score_table,
    spread_sentence,
    spread_table,
    undefined_table,
)
from nnunet_ext.benchmark.scores import of_single_cases
from nnunet_ext.core.files import make_folder, write_together
from nnunet_ext.evaluation.conventions import conventions_from
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.tables import Table, column_head

PAGE = "report.html"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Section:
    """What is known of one setting."""

    setting: Setting
    title: str
    scores: list[Score]
    differences: list[Difference]
    spreads: list[Spread]
    costs: list[Cost]
    main: list[Table]
    more: list[Table]
    published: Table | None
    cost: Table | None
    drawings: list[Drawing]

    @property
    def sentences(self) -> list[str]:
        """What the dataset can tell, a sentence per metric."""
        return [spread_sentence(one, self.title) for one in self.spreads]


@dataclass(frozen=True)
class RankSection:
    """Rankings by one metric over the datasets of one configuration and plans."""

    group: str
    rankings: list[Ranking]
    tables: list[Table]
    drawing: Drawing


def report_files(results: Results, progress: Progress | None = None) -> dict[str, str]:
    """All files of a report by name, the page among them.

    Args:
        results: What the benchmark has given.
        progress: Called with (parts done, parts in all, part).

    Raises:
        UserError: Cells that must agree do not (:func:`~nnunet_ext.benchmark.report.guard.refuse_unfair`), or a preset
            or metric is unknown.
    """
    refuse_unfair(results)
    specification = results.specification
    conventions = conventions_from(specification.preset).describe()
    own_costs = costs(results)
    sections = []
    for done, setting in enumerate(results.settings, 1):
        sections.append(_section(results, setting, own_costs))
        if progress is not None:
            progress(done, len(results.settings), specification.title(setting))
    filled = [s for s in sections if s.scores]
    ranks = _ranks(results)
    trouble = troubles(results)
    drawings = [*chain.from_iterable(s.drawings for s in sections), *(r.drawing for r in ranks)]
    tables = [*chain.from_iterable((*s.main, *s.more) for s in filled), *chain.from_iterable(r.tables for r in ranks)]
    spreads = [one for s in filled for one in s.spreads]
    if spreads:
        tables.append(spread_table(spreads, specification))
    tables += [s.published for s in filled if s.published]
    cost_tables = [s.cost for s in sections if s.cost]
    page = (
        _environment()
        .get_template("benchmark.html.j2")
        .render(
            title=specification.name,
            specification=specification,
            arms=[(name, colour(i)) for i, name in enumerate(specification.arm_names)],
            counts={s: int((results.cells["status"] == s).sum()) for s in ("finished", "failed", "missing")},
            notes=[*results.notes, *remarks(results), *_unfinished(results, filled)],
            summary=_summary(filled, specification.arm_names),
            summary_head=column_head(metric(specification.metrics[0])),
            matrix=_matrix(results),
            sections=filled,
            spread=spread_table(spreads, specification) if spreads else None,
            ranks=ranks,
            resamples=RESAMPLES,
            cost_tables=cost_tables,
            troubles=trouble,
            conventions=conventions,
            definitions=[metric(name) for name in specification.metrics],
            environment=results.environment,
        )
    )
    return {
        PAGE: page,
        "cells.csv": results.csv("cells"),
        "scores.csv": as_csv(as_frame([one for s in filled for one in s.scores], Score)),
        "differences.csv": as_csv(as_frame([one for s in filled for one in s.differences], Difference)),
        "spread.csv": as_csv(as_frame(spreads, Spread)),
        "ranks.csv": _ranks_csv(ranks),
        "costs.csv": as_csv(as_frame(own_costs, Cost)),
        "troubles.csv": as_csv(as_frame(trouble, Trouble)),
        # Costs stand apart: two runs with the same seeds give the same tables, but never the same seconds.
        "tables.md": "\n".join(t.markdown() for t in tables),
        "tables.tex": "\n".join(t.latex() for t in tables),
        "costs.md": "\n".join(t.markdown() for t in cost_tables),
        "costs.tex": "\n".join(t.latex() for t in cost_tables),
        **{f"figures/{d.identifier}.svg": f"{_XML}{d.svg}\n" for d in drawings},
    }


def write_report(work: Path, output: Path, progress: Progress | None = None) -> Path:
    """Write the report of what a work folder holds so far; gives the path of the page.

    Args:
        work: Work folder of ``nnunet-ext benchmark run``.
        output: Folder for ``report.html``, tables and figures, made where needed. Figures of an earlier report that
            this one lacks are removed.
        progress: As for :func:`report_files`; a dataset of 40 trainings and 13 classes takes seconds.

    Raises:
        UserError: The folder holds no benchmark, a file of it is damaged, cells must not be compared, or the output
            cannot be written.
    """
    files = report_files(collect(work), progress)
    figure_folder = output / "figures"
    make_folder(figure_folder)
    write_together(output, files)
    for old in figure_folder.glob("*.svg"):
        if f"figures/{old.name}" not in files:
            old.unlink()
    return output / PAGE


_XML = '<?xml version="1.0" encoding="utf-8"?>\n'


def _environment() -> jinja2.Environment:
    own, shared = (jinja2.PackageLoader(f"nnunet_ext.{name}") for name in ("benchmark.report", "evaluation"))
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([own, shared]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(version=__version__, head=column_head)
    return environment


def _section(results: Results, setting: Setting, all_costs: Sequence[Cost]) -> Section:
    specification = results.specification
    metrics, names = specification.metrics, specification.arm_names
    own_scores = [one for name in metrics for one in scores(results, setting, name)]
    scored = [name for name in metrics if any(s.metric == name for s in own_scores)]
    of_cases = of_single_cases(scored)
    own_differences = differences(results, setting, of_cases)
    spreads = [spread(results, setting, name) for name in scored]
    # A test set is no training of its own: what that cost stands with the final validation.
    own_costs = [] if setting.test_set else [c for c in all_costs if c.setting == setting]
    title = specification.title(setting)
    label = overall(s.label for s in own_scores)
    several = len({s.label for s in own_scores}) > 1
    main: list[Table] = []
    more: list[Table] = []
    drawings: list[Drawing | None] = []
    trained_here = specification.within(setting)
    if own_scores:
        main.append(score_table(own_scores, trained_here, title, scored))
        if own_differences:
            main.append(difference_table(own_differences, title, of_cases))
        for name in scored if several else []:
            more.append(class_table(own_scores, trained_here, title, name))
            if own_differences and name in of_cases:
                more.append(class_difference_table(own_differences, title, name))
        if any(s.undefined for s in own_scores if s.label is not None):
            more.append(undefined_table(own_scores, title))
    with_curves = None if setting.test_set else figures.learning_curves(results, setting)
    drawings.append(with_curves)
    for i, name in enumerate(scored):
        here = [d for d in own_differences if d.metric == name]
        in_main = [d for d in here if d.label == label]
        drawings.append(figures.case_dots(in_main, names))
        if i == 0:
            drawings.append(figures.cost_and_gain(own_costs, in_main, names))
        if several:
            drawings.append(figures.class_dots([s for s in own_scores if s.metric == name], names))
            drawings.append(figures.class_differences(here, names))
    return Section(
        setting,
        title,
        own_scores,
        own_differences,
        spreads,
        own_costs,
        main,
        more,
        published_table(own_scores, specification.published, specification, setting),
        cost_table(own_costs, title, specification.reference) if own_costs else None,
        [d for d in drawings if d is not None],
    )


def _ranks(results: Results) -> list[RankSection]:
    specification = results.specification
    found = []
    for name in specification.metrics:
        for number, (group, own) in enumerate(rankings(results, name).items()):
            tables = [rank_table(own, specification.arm_names, group)]
            datasets = [r for r in own if r.title in specification.datasets]
            if len(datasets) > 1:
                tables.append(agreement_table(agreement([r for r in datasets if r.arms == own[-1].arms]), group))
            drawing = figures.rank_plot(own, specification.arm_names, f"ranks-{name}-{number}")
            found.append(RankSection(group, own, [t for t in tables if t.rows], drawing))
    return found


def _ranks_csv(sections: Sequence[RankSection]) -> str:
    head = ("group", "metric", "dataset", "arm", "cases", "rank", "share_first", "tau", "tau_low", "tau_high")
    rows = [
        (s.group, r.metric, r.title, arm, r.cases, r.ranks[i], r.first(i), r.tau, r.tau_low, r.tau_high)
        for s in sections
        for r in s.rankings
        for i, arm in enumerate(r.arms)
    ]
    return as_csv(pd.DataFrame(rows, columns=list(head)))


def _unfinished(results: Results, filled: Sequence[Section]) -> list[str]:
    counts = results.cells["status"].value_counts().to_dict()
    words = [f"{counts[status]} {status}" for status in ("failed", "missing") if counts.get(status)]
    notes = []
    if words:
        notes.append(
            f"{' and '.join(words)} of {len(results.cells)} cells. Means are over the cells that are finished; paired "
            "differences and ranks only over cases that the arms have in common."
        )
    reference = results.specification.reference
    alone = [section.title for section in filled if all(s.arm != reference for s in section.scores)]
    if alone:
        notes.append(f"The reference arm {reference} has no finished cell, so nothing is compared: {'; '.join(alone)}.")
    first = results.specification.metrics[0]
    common = {s.title: losses(results, s.setting, first) for s in filled if not s.setting.test_set}
    if unranked := [name for name, lost in common.items() if lost.shape[1] > 1 and lost.empty]:
        notes.append(f"Not ranked, as no case has been scored by all arms that have begun: {'; '.join(unranked)}.")
    title = results.specification.title
    empty = [title(s) for s in results.settings if s not in {f.setting for f in filled}]
    if empty and filled:
        notes.append(f"Nothing finished yet: {'; '.join(empty)}.")
    return notes


def _summary(sections: Sequence[Section], names: Sequence[str]) -> list[tuple[str, list[tuple[str, str]]]]:
    """A row per arm but the reference: kind (better, worse, even, none) and text for each setting, first metric."""
    rows = []
    for name in names[1:]:
        cells = []
        for section in sections:
            label = overall(s.label for s in section.scores)
            first = section.scores[0].metric
            one = next((d for d in section.differences if (d.arm, d.label, d.metric) == (name, label, first)), None)
            if one is None or not one.cases:
                cells.append(("none", "–"))
                continue
            kind = "even" if not one.p_holm < 0.05 else "better" if one.wins > one.losses else "worse"
            cells.append((kind, interval(one)))
        rows.append((name, cells))
    return rows


def _matrix(results: Results) -> list[tuple[str, list[tuple[str, list[tuple[str, str]]]]]]:
    """Settings, in them arms, in them a status and a tip for each fold and seed."""
    found = []
    cells = results.cells
    for setting in results.specification.settings:
        here = cells[
            (cells["dataset"] == setting.dataset)
            & (cells["configuration"] == setting.configuration)
            & (cells["plans"] == setting.plans)
        ]
        rows = []
        for arm in results.specification.within(setting).arm_names:
            own = here[here["arm"] == arm].sort_values(["fold", "seed"], kind="stable")
            marks = [
                (str(status), f"fold {fold}, seed {seed}: {status}{f', {kind}' if kind else ''}")
                for status, fold, seed, kind in zip(
                    own["status"], own["fold"], own["seed"], own["failure_kind"], strict=True
                )
            ]
            rows.append((arm, marks))
        found.append((results.specification.title(setting), rows))
    return found
