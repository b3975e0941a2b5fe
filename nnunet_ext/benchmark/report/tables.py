"""Tables for readers, in the form of :mod:`nnunet_ext.evaluation.tables`, and the same numbers as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from nnunet_ext.benchmark.report.costs import Cost, devices_differ
from nnunet_ext.benchmark.report.ranks import Ranking
from nnunet_ext.benchmark.report.scores import Difference, Score, Spread
from nnunet_ext.benchmark.report.specification import Published, Setting, Specification
from nnunet_ext.evaluation.metrics import Metric, metric
from nnunet_ext.evaluation.tables import Cell, Table, class_name, column_head, mean_std, number, p_value, shown
from nnunet_ext.evaluation.targets import MEAN_NAME

_GIB = 2**30


def overall(labels: Iterable[str | None]) -> str | None:
    """The label that stands for all: the mean over classes where there is one, else the only class."""
    known = list(labels)
    return None if None in known or not known else known[0]


def score_table(scores: Sequence[Score], specification: Specification, title: str, names: Sequence[str]) -> Table:
    """One setting: arms as rows, metrics of the mean over classes (or the only class) as columns.

    The best mean is bold only where every arm has finished the same cells: other means are not comparable.
    """
    label = overall(s.label for s in scores)
    found = {(s.arm, s.metric): s for s in scores if s.label == label}
    described = [metric(name) for name in names]
    best = [_best([found.get((arm, d.name)) for arm in specification.arm_names], d, specification) for d in described]
    rows = []
    for i, arm in enumerate(specification.arm_names):
        own = [found.get((arm, d.name)) for d in described]
        cells = max((s.cells for s in own if s), default=0)
        texts = [Cell(_mean_std(d, s), best=i in b) for d, s, b in zip(described, own, best, strict=True)]
        rows.append((Cell(arm), Cell(f"{cells}/{specification.cells_of(arm)}"), *texts))
    caption = f"{title}: {class_name(label)}, {_std_words(scores)}"
    return Table(caption, ("Arm", "Cells", *(column_head(d) for d in described)), tuple(rows))


def class_table(scores: Sequence[Score], specification: Specification, title: str, name: str) -> Table:
    """One setting and metric: arms as rows, classes and their mean as columns."""
    described = metric(name)
    labels = list(dict.fromkeys(s.label for s in scores if s.metric == name))
    found = {(s.arm, s.label): s for s in scores if s.metric == name}
    arms = specification.arm_names
    best = [_best([found.get((arm, label)) for arm in arms], described, specification) for label in labels]
    rows = []
    for i, arm in enumerate(arms):
        cells = [
            Cell(_mean_std(described, found.get((arm, label))), best=i in b)
            for label, b in zip(labels, best, strict=True)
        ]
        rows.append((Cell(arm), *cells))
    caption = f"{title}: {column_head(described)}, {_std_words(scores)}"
    return Table(caption, ("Arm", *map(class_name, labels)), tuple(rows))


def _mean_std(described: Metric, score: Score | None) -> str:
    if score is None:
        return "–"
    return mean_std(described, score.mean, score.seed_std if score.folds == 1 else score.fold_std)


def _std_words(scores: Sequence[Score]) -> str:
    folds = max((s.folds for s in scores), default=0)
    seeds = max((math.ceil(s.cells / max(s.folds, 1)) for s in scores), default=0)
    if folds > 1:
        return "mean ± std over folds"
    return "mean ± std over seeds" if seeds > 1 else "mean"


def _best(scores: Sequence[Score | None], described: Metric, specification: Specification) -> set[int]:
    whole = len(specification.folds) * len(specification.seeds)
    if len(scores) < 2 or any(s is None or s.cells != whole for s in scores):
        return set()
    losses = described.loss([s.mean for s in scores if s is not None])
    if np.isnan(losses).all():
        return set()
    return set(np.flatnonzero(losses == np.nanmin(losses)).tolist())


def difference_table(differences: Sequence[Difference], title: str, names: Sequence[str]) -> Table:
    """One setting: arms as rows, paired differences of the mean over classes (or the only class) as columns."""
    label = overall(d.label for d in differences)
    main = [d for d in differences if d.label == label]
    arms = list(dict.fromkeys(d.arm for d in main))
    rows = []
    for arm in arms:
        own = {d.metric: d for d in main if d.arm == arm}
        counted = next(iter(own.values()))
        cells = [Cell(arm), Cell(str(counted.cases)), Cell(str(counted.pairs)), Cell(str(counted.left_out))]
        for name in names:
            one = own.get(name)
            cells += [Cell("–"), Cell("–")] if one is None else [Cell(interval(one)), Cell(p_value(one.p_holm))]
        rows.append(tuple(cells))
    heads = [head for name in names for head in (column_head(metric(name)), "p (Holm)")]
    reference = main[0].reference if main else ""
    caption = f"{title}: {class_name(label)}, paired difference to {reference} with 95 % interval"
    return Table(caption, ("Arm", "Cases", "Pairs", "Not paired", *heads), tuple(rows))


def class_difference_table(differences: Sequence[Difference], title: str, name: str) -> Table:
    """One setting and metric: arms as rows, paired differences of classes as columns; bold where p (Holm) < 0.05."""
    described = metric(name)
    own = [d for d in differences if d.metric == name]
    labels = list(dict.fromkeys(d.label for d in own))
    found = {(d.arm, d.label): d for d in own}
    rows = tuple(
        (
            Cell(arm),
            *(Cell(interval(found[arm, label]), best=found[arm, label].p_holm < 0.05) for label in labels),
        )
        for arm in dict.fromkeys(d.arm for d in own)
    )
    reference = own[0].reference if own else ""
    caption = (
        f"{title}: {column_head(described)}, paired difference to {reference} with 95 % interval, "
        "bold where p < 0.05 after Holm's correction"
    )
    return Table(caption, ("Arm", *map(class_name, labels)), rows)


def interval(one: Difference) -> str:
    """``+1.20 [0.80, 1.61]`` in the unit of tables."""
    described = metric(one.metric)
    text = shown(described, one.difference)
    sign = "+" if one.difference > 0 and text != "0.00" else ""
    if math.isnan(one.low):
        return f"{sign}{text}"
    return f"{sign}{text} [{shown(described, one.low)}, {shown(described, one.high)}]"


def undefined_table(scores: Sequence[Score], title: str) -> Table:
    """How many values of each class are scored and how many are not defined, summed over cells, by arm and metric."""
    plain = [s for s in scores if s.label is not None]
    labels = list(dict.fromkeys(s.label for s in plain))
    found = {(s.arm, s.metric, s.label): s for s in plain}
    rows = []
    for arm, name in dict.fromkeys((s.arm, s.metric) for s in plain):
        own = [found[arm, name, label] for label in labels]
        texts = [f"{s.values - s.undefined}" + (f" + {s.undefined}" if s.undefined else "") for s in own]
        rows.append((Cell(f"{arm}, {metric(name).title}"), *map(Cell, texts)))
    caption = f"{title}: values scored + not defined (class in neither label map)"
    return Table(caption, ("Arm, metric", *map(class_name, labels)), tuple(rows))


def spread_table(spreads: Sequence[Spread], specification: Specification) -> Table:
    """Spread between arms against spread within an arm, a row per setting and metric."""
    rows = []
    for one in spreads:
        described = metric(one.metric)
        values = [shown(described, v, 3) for v in (one.between, one.over_folds, one.over_seeds, one.within)]
        rows.append(
            (
                Cell(f"{specification.title(one.setting)}, {described.title} ({described.shown_unit})"),
                Cell(str(len(one.arms))),
                Cell(str(one.cells)),
                *map(Cell, values),
                Cell(number(one.f)),
                Cell(p_value(one.p)),
                Cell({True: "yes", False: "no", None: "too little to say"}[one.tells_apart]),
            )
        )
    head = ("Setting", "Arms", "Cells each", "Between arms", "Over folds", "Over seeds", "Within an arm", "F", "p")
    caption = "Spread (standard deviation) between arms and within an arm; cells that all arms have finished"
    return Table(caption, (*head, "Tells arms apart"), tuple(rows))


def spread_sentence(one: Spread, title: str) -> str:
    """What the dataset can tell, in words."""
    described = metric(one.metric)
    where = f"{title}, {described.title}"
    if one.tells_apart is None:
        if len(one.arms) < 2:
            return f"{where}: fewer than two arms are finished, so there is nothing to tell apart."
        if not one.cells:
            return f"{where}: no fold and seed has been finished by all arms yet."
        return f"{where}: too little to say whether another training would give the same order; add seeds or folds."
    unit = described.shown_unit
    by = "over seeds" if one.by == "seeds" else "what arms and folds leave unexplained"
    verdict = "tells these arms apart" if one.tells_apart else "does not tell these arms apart"
    return (
        f"{where}: {verdict} with {one.cells} trainings of each; spread between arms "
        f"{shown(described, one.between)} {unit}, within an arm {shown(described, one.within)} {unit} ({by}), "
        f"F {number(one.f)}, p {_equals(one.p)}."
    )


def _equals(p: float) -> str:
    text = p_value(p)
    return text.replace("<", "< ") if text.startswith("<") else f"= {text}"


def rank_table(rankings: Sequence[Ranking], names: Sequence[str], group: str) -> Table:
    """Ranks of arms, a column per dataset; how often an arm is first in the resamples in parentheses."""
    rows = []
    for arm in names:
        cells = []
        for ranking in rankings:
            if arm not in ranking.arms:
                cells.append(Cell("–"))
                continue
            own = ranking.arms.index(arm)
            first = f"{100 * ranking.first(own):.0f} %"
            cells.append(
                Cell(f"{number(float(ranking.ranks[own]), 2)} ({first})", ranking.ranks[own] == ranking.ranks.min())
            )
        rows.append((Cell(arm), *cells))
    rows.append((Cell("Cases that all arms have"), *(Cell(str(r.cases)) for r in rankings)))
    stable = [f"{number(r.tau)} [{number(r.tau_low)}, {number(r.tau_high)}]" for r in rankings]
    rows.append((Cell("Kendall's tau of resamples"), *map(Cell, stable)))
    described = metric(rankings[0].metric)
    what = f"rank by {described.title}, share of the resamples in which an arm is first"
    caption = f"{group}: {what}" if group else what[0].upper() + what[1:]
    return Table(caption, ("Arm", *(r.title for r in rankings)), tuple(rows))


def agreement_table(taus: Mapping[tuple[str, str], float], group: str) -> Table:
    """Kendall's tau between the rankings of each pair of datasets."""
    datasets = list(dict.fromkeys(chain.from_iterable(taus)))
    both = {**taus, **{(b, a): tau for (a, b), tau in taus.items()}}
    rows = tuple((Cell(a), *(Cell("") if a == b else Cell(number(both[a, b])) for b in datasets)) for a in datasets)
    return Table(
        f"{f'{group}: ' if group else ''}Kendall's tau between the rankings of two datasets",
        ("Dataset", *datasets),
        rows,
    )


def cost_table(costs: Sequence[Cost], title: str, reference: str) -> Table:
    """Cost of the arms of one setting; the device is named where there are several, GPU columns where there is one."""
    named = devices_differ(costs)
    on_gpu = any(c.gpu_hours or c.peak_allocated_bytes or c.peak_reserved_bytes for c in costs)
    head = ["Arm", *(["Device"] if named else []), "Finished", "Attempts"]
    head += ["GPU hours"] if on_gpu else []
    head += ["CPU hours", "Wall hours", "of them failed", "s an epoch", f"× {reference}"]
    head += ["Peak allocated (GiB)", "Peak reserved (GiB)"] if on_gpu else []
    head += ["Peak RSS (GiB)", "Parameters (M)", "Inference, s a case", f"× {reference}"]
    rows = []
    for c in costs:
        texts = [c.arm, *([c.device] if named else []), str(c.finished), str(c.attempts)]
        texts += [number(c.gpu_hours)] if on_gpu else []
        texts += [number(v) for v in (c.cpu_hours, c.wall_hours, c.lost_hours, c.seconds_per_epoch, c.ratio_epoch)]
        texts += [_gib(c.peak_allocated_bytes), _gib(c.peak_reserved_bytes)] if on_gpu else []
        texts += [_gib(c.peak_rss_bytes), "–" if c.parameters is None else number(c.parameters / 1e6)]
        texts += [number(c.inference_seconds), number(c.ratio_inference)]
        rows.append(tuple(map(Cell, texts)))
    return Table(f"{title}: cost of all cells of an arm, memory as the highest peak", tuple(head), tuple(rows))


def _gib(value: int | None) -> str:
    return "–" if value is None else number(value / _GIB)


def published_table(
    scores: Sequence[Score], published: Sequence[Published], specification: Specification, setting: Setting
) -> Table | None:
    """Printed numbers beside ours; ``None`` where none belongs here.

    A number for a dataset stands with its final validation, one for the name of a test set with that.
    """
    found = {(s.arm, s.label, s.metric): s for s in scores}
    only = overall(s.label for s in scores)
    places = {setting.test_set} if setting.test_set else {None, setting.dataset}
    rows = []
    for entry in published:
        if entry.dataset not in places:
            continue
        described = metric(entry.metric)
        own = found.get((entry.arm, only if entry.label is None else entry.label, entry.metric))
        # A rate is printed as a fraction or in percent.
        value = entry.value * (described.shown_factor if abs(entry.value) <= 1 else 1)
        rows.append(
            (
                Cell(entry.arm),
                Cell(class_name(only if entry.label is None else entry.label)),
                Cell(column_head(described)),
                Cell(number(value)),
                Cell(_mean_std(described, own)),
                Cell("–" if own is None else f"{own.cells}/{specification.cells_of(entry.arm)}"),
                Cell(entry.source),
            )
        )
    if not rows:
        return None
    head = ("Arm", "Class", "Metric", "Printed", "Here", "Cells", "Printed in")
    return Table(f"{specification.title(setting)}: printed numbers beside ours", head, tuple(rows))


def as_frame(rows: Sequence[Any], kind: type) -> pd.DataFrame:
    """Dataclasses as a table, a setting as four columns; ``is_mean`` tells the mean over classes from a class."""
    names = [f.name for f in fields(kind) if f.name != "per_case"]
    columns = [column for name in names for column in (Setting._fields if name == "setting" else (name,))]
    if "label" in columns:
        columns.insert(columns.index("label") + 1, "is_mean")
    made = []
    for row in rows:
        values = {name: getattr(row, name) for name in names}
        if "setting" in values:
            values |= values.pop("setting")._asdict()
        if "label" in values:
            values |= {
                "is_mean": values["label"] is None,
                "label": MEAN_NAME if values["label"] is None else values["label"],
            }
        if isinstance(values.get("arms"), tuple):
            values["arms"] = "; ".join(values["arms"])
        made.append(values)
    return pd.DataFrame(made, columns=columns)


def as_csv(frame: pd.DataFrame) -> str:
    """Text of a table, numbers to twelve digits: the order of a sum, which machines choose, changes the last ones."""
    return frame.to_csv(index=False, lineterminator="\n", float_format="%.12g")
