"""What ``nnunet-ext evaluate`` and ``nnunet-ext compare`` do: run, write files, show tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable

from nnunet_ext.errors import UserError
from nnunet_ext.evaluation import report, statistics, tables
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.folders import evaluate_folders, find_dataset_json
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.overlays import worst_overlays
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import read_dataset_json

_TERMINAL_METRICS = ("Dice", "ASSD", "HD95")
_MAX_PROCESSES = 8  # nnU-Net's default number of processes
CACHE = "cases"
"""Folder of finished cases inside the output folder."""


def default_processes() -> int:
    """One process per core, at most as many as nnU-Net uses."""
    return min(_MAX_PROCESSES, os.cpu_count() or 1)


def run_evaluate(
    reference_dir: Path,
    prediction_dir: Path,
    dataset_json_file: Path | None,
    output: Path | None,
    conventions: Conventions,
    *,
    num_processes: int,
    allow_missing: bool,
    only_predicted: bool,
    splits_file: Path | None,
    images_dir: Path | None,
    n_worst: int,
    write_report: bool,
) -> Evaluation:
    """Evaluate, write ``summary.json``, ``metrics.csv`` and ``report.html``, and print a table.

    Raises:
        UserError: See :func:`~nnunet_ext.evaluation.folders.evaluate_folders`.
    """
    console = Console()
    dataset_json_file = dataset_json_file or find_dataset_json(reference_dir, prediction_dir)
    dataset_json = read_dataset_json(dataset_json_file)
    output = output or prediction_dir / "evaluation"
    with _progress(console) as progress:
        task = progress.add_task("Evaluating", total=None)
        evaluation = evaluate_folders(
            reference_dir,
            prediction_dir,
            dataset_json,
            conventions,
            allow_missing=allow_missing,
            only_predicted=only_predicted,
            splits_file=splits_file,
            num_processes=num_processes,
            cache_dir=output / CACHE,
            progress=lambda done, total, case: progress.update(
                task, completed=done, total=total, description=f"Evaluating {case}"
            ),
        )
    evaluation.save(output)
    written = ["summary.json", "metrics.csv"]
    if write_report:
        overlays = worst_overlays(evaluation, dataset_json, images_dir, "Dice", n_worst)
        title = str(dataset_json.get("name") or prediction_dir.resolve().name)
        (output / "report.html").write_text(report.evaluation_report(evaluation, overlays, title), encoding="utf-8")
        written.append("report.html")
    _show_evaluation(console, evaluation)
    console.print(f"Written to {output}: {', '.join(written)}", soft_wrap=True, highlight=False)
    return evaluation


def run_compare(
    folders: Mapping[str, Path],
    output: Path,
    metrics: Sequence[str],
    *,
    all_pairs: bool,
    common: bool,
    seed: int,
) -> list[statistics.PairedResult]:
    """Compare results, write tables and a report, and print the tests.

    Raises:
        UserError: See :func:`~nnunet_ext.evaluation.statistics.load_models`.
    """
    console = Console()
    models, notes = statistics.load_models(folders, common)
    results = statistics.compare(models, metrics, all_pairs, seed)
    made = report.comparison_tables(models)
    output.mkdir(parents=True, exist_ok=True)
    (output / "tables.md").write_text("\n".join(t.markdown() for t in made), encoding="utf-8")
    (output / "tables.tex").write_text("\n".join(t.latex() for t in made), encoding="utf-8")
    statistics.as_frame(results).to_csv(output / "comparison.csv", index=False)
    html = report.comparison_report(models, results, notes, " · ".join(models))
    (output / "report.html").write_text(html, encoding="utf-8")
    for note in notes:
        console.print(f"[yellow]{note}")
    _show_comparison(console, results)
    names = "comparison.csv, tables.md, tables.tex, report.html"
    console.print(f"Written to {output}: {names}", soft_wrap=True, highlight=False)
    return results


def named_folders(arguments: Sequence[str]) -> dict[str, Path]:
    """Split ``NAME=RESULT_DIR`` arguments.

    Raises:
        UserError: If one has another form or a name comes twice.
    """
    folders: dict[str, Path] = {}
    for argument in arguments:
        name, found, folder = argument.partition("=")
        if not (name and found and folder):
            raise UserError(f"{argument!r} is not of the form NAME=RESULT_DIR")
        if name in folders:
            raise UserError(f"the name {name!r} stands for two results")
        folders[name] = Path(folder)
    return folders


def _progress(console: Console) -> Progress:
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _table(title: str) -> RichTable:
    return RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), title_style="bold")


def _show_evaluation(console: Console, evaluation: Evaluation) -> None:
    scores = [n for n in evaluation.metrics if n.endswith("_score")]
    table = tables.summary_table(evaluation, [*_TERMINAL_METRICS, *scores])
    shown = _table(f"{len(evaluation.cases)} cases, mean ± std; more metrics in the files")
    counts = evaluation.counts()
    for i, head in enumerate((*table.head, "missed", "false +", "n")):
        shown.add_column(head, justify="left" if i == 0 else "right", no_wrap=True)
    for row in table.rows:
        own = counts.loc[row[0].text] if row[0].text in counts.index else None
        last = ["", "", ""] if own is None else [str(own[k]) for k in ("missed", "false_positive", "scored")]
        shown.add_row(*(cell.text for cell in row), *last)
    console.print(shown)
    for note in evaluation.notes:
        console.print(f"[yellow]{note}", highlight=False)
    for case in evaluation.cases:
        if case["note"]:
            console.print(f"[yellow]{case['case']} {case['note']}", highlight=False, soft_wrap=True)
    words = dict(evaluation.conventions.describe())
    console.print(
        f"Conventions: {words['Preset']}; surface {words['Surface']}; image edge {words['Image edge']}; "
        f"a missed class: {words['Class in only one label map']}.",
        style="dim",
        highlight=False,
    )


def _show_comparison(console: Console, results: Sequence[statistics.PairedResult]) -> None:
    shown = _table("Mean paired difference [95 % bootstrap interval], Wilcoxon signed-rank with Holm")
    heads = ("Class", "Metric", "Models", "Difference", "Won:lost", "p (Holm)")
    for i, head in enumerate(heads):
        shown.add_column(head, justify="left" if i < 3 else "right", no_wrap=True)
    for r in results:
        d = metric(r.metric)
        style = "" if not r.p_holm < 0.05 else "green" if r.wins > r.losses else "red"
        shown.add_row(
            tables.class_name(r.label),
            f"{d.title} ({d.shown_unit})",
            f"{r.second} − {r.first}",
            f"{tables.shown(d, r.difference)} \\[{tables.shown(d, r.low)}, {tables.shown(d, r.high)}]",
            f"{r.wins}:{r.losses}",
            tables.p_value(r.p_holm),
            style=style,
        )
    console.print(shown)
