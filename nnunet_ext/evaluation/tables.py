"""Tables in the form of the papers: mean ± std, models as rows, metrics or organs as columns; Markdown and LaTeX."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_ext.core import markdown
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.metrics import Metric, metric
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import MEAN_NAME

_LATEX = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"})
_LATEX_SIGNS = {
    "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→0": r"$\to 0$", "→": r"$\to$", "∞": r"$\infty$",
    "−": "$-$", "–": "--", "<": "$<$", ">": "$>$",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """A table cell; ``best`` sets it in bold."""

    text: str
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, column heads and rows; the first cell of a row is its head."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """GitHub-flavoured Markdown."""
        rows = ([f"**{c.text}**" if c.best else c.text for c in row] for row in self.rows)
        return f"**{self.caption}**\n\n{markdown.table(self.head, rows, numbers=True)}"

    def latex(self) -> str:
        """A ``table`` environment that needs the package booktabs."""
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(self.caption)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(self.head) - 1)}}}",
            r"\toprule",
            " & ".join(_latex(h) for h in self.head) + r" \\",
            r"\midrule",
        ]
        for row in self.rows:
            cells = [rf"\textbf{{{_latex(c.text)}}}" if c.best else _latex(c.text) for c in row]
            lines.append(" & ".join(cells) + r" \\")
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def _latex(text: str) -> str:
    text = text.replace("\\", "/").translate(_LATEX)
    for sign, code in _LATEX_SIGNS.items():
        text = text.replace(sign, code)
    return text


def number(value: float, digits: int = 2) -> str:
    """A value for readers: ``–`` for not scored, ``∞``, a true minus sign."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:.{digits}f}".replace("-", "−")


def p_value(value: float) -> str:
    """A p-value for readers."""
    if math.isnan(value):
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def shown(described: Metric, value: float, digits: int = 2) -> str:
    """A stored metric value in the unit of tables."""
    return number(value * described.shown_factor, digits)


def mean_std(described: Metric, mean: float, std: float) -> str:
    """``mean ± std`` in the unit of tables; the mean alone where there is a single case."""
    text = shown(described, mean)
    return text if math.isnan(std) else f"{text} ± {shown(described, std)}"


def column_head(described: Metric) -> str:
    """Title, unit and direction of a metric."""
    return f"{described.title} ({described.shown_unit}) {described.arrow}"


def default_metrics(conventions: Conventions) -> list[str]:
    """The metrics that tables and figures show unless told otherwise: those of the five papers."""
    scores = {"chaos": "CHAOS_score", "sliver07": "SLIVER07_score"}
    names = ["Dice", "IoU", "VOE", "RVD", "RAVD", "Precision", "Recall", "ASSD", "RMSD", "HD", "HD95"]
    return [
        *names,
        *(f"NSD_{t:g}mm" for t in conventions.nsd_tolerances_mm[:1]),
        *(scores[s] for s in conventions.scores),
    ]


def summary_table(evaluation: Evaluation, names: Sequence[str]) -> Table:
    """One model: classes as rows and their mean last, metrics as columns."""
    described = [metric(name) for name in names]
    labels = labels_and_mean(evaluation)
    rows = []
    for label in labels:
        mean, std = _mean_and_std(evaluation, label, names)
        head = class_name(label)
        rows.append((Cell(head), *(Cell(mean_std(d, mean[d.name], std[d.name])) for d in described)))
    caption = f"mean ± std over {len(evaluation.cases)} cases"
    return Table(caption, ("Class", *(column_head(d) for d in described)), tuple(rows))


def labels_and_mean(evaluation: Evaluation) -> list[str | None]:
    """The classes, and ``None`` for their mean where there are several."""
    return [*(t.name for t in evaluation.targets), *([None] if len(evaluation.targets) > 1 else [])]


def class_name(label: str | None) -> str:
    """Name of a class, or of their mean (``None``), for readers, who must be able to tell the two apart."""
    if label is None:
        return MEAN_NAME
    name = " ".join(label.split())
    return f"class {label!r}" if name.casefold() == MEAN_NAME or not name else name


def metrics_table(models: Mapping[str, Evaluation], label: str | None, names: Sequence[str]) -> Table:
    """One class: models as rows, metrics as columns (Lian et al. 2025, Table 1; Conze et al. 2021, Table 1)."""
    described = [metric(name) for name in names]
    values = {model: _mean_and_std(evaluation, label, names) for model, evaluation in models.items()}
    best = [_best(d, [values[m][0][d.name] for m in models]) for d in described]
    rows = tuple(
        (
            Cell(model),
            *(
                Cell(mean_std(d, values[model][0][d.name], values[model][1][d.name]), best=i in winners)
                for d, winners in zip(described, best, strict=True)
            ),
        )
        for i, model in enumerate(models)
    )
    cases = len(next(iter(models.values())).cases)
    return Table(
        f"{class_name(label)}: mean ± std over {cases} cases", ("Model", *(column_head(d) for d in described)), rows
    )


def classes_table(models: Mapping[str, Evaluation], name: str) -> Table:
    """One metric: models as rows, classes as columns and their mean (Zhou et al. 2019, Table 2)."""
    described = metric(name)
    first = next(iter(models.values()))
    labels = labels_and_mean(first)
    values = {m: [_mean_and_std(e, label, [name]) for label in labels] for m, e in models.items()}
    best = [_best(described, [values[m][i][0][name] for m in models]) for i in range(len(labels))]
    rows = tuple(
        (
            Cell(model),
            *(
                Cell(mean_std(described, mean[name], std[name]), best=row in best[column])
                for column, (mean, std) in enumerate(values[model])
            ),
        )
        for row, model in enumerate(models)
    )
    heads = map(class_name, labels)
    return Table(f"{column_head(described)}: mean ± std over {len(first.cases)} cases", ("Model", *heads), rows)


def _mean_and_std(
    evaluation: Evaluation, label: str | None, names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    values = evaluation.per_case(label)[list(names)]
    return (
        {str(k): float(v) for k, v in values.mean().items()},
        {str(k): float(v) for k, v in values.std().items()},
    )


def _best(described: Metric, means: Sequence[float]) -> set[int]:
    """Indices of the best mean; nobody where there is nothing to compare."""
    losses = described.loss(means)
    if len(means) < 2 or np.isnan(losses).all():
        return set()
    return set(np.flatnonzero(losses == np.nanmin(losses)).tolist())
