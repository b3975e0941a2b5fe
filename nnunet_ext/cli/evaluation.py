"""What ``nnunet-ext evaluate`` and ``nnunet-ext compare`` do: run, write files, show tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as RichTable
from rich.text import Text

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_together
from nnunet_ext.evaluation import report, statistics, tables
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.folders import evaluate_folders, find_dataset_json
from nnunet_ext.evaluation.images import raw_folders
from nnunet_ext.evaluation.metrics import Metric, metric
from nnunet_ext.evaluation.overlays import NOT_FOUND, Overlay, worst_overlays
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import read_dataset_json
from nnunet_ext.evaluation.worker import Matching

_TERMINAL_METRICS = ("Dice", "ASSD")
_MAX_PROCESSES = 8  # nnU-Net's default number of processes
CACHE = "cases"
"""Folder of finished cases inside the output folder."""


def default_processes() -> int:
    """One process per core, at most as many as nnU-Net uses."""
    return min(_MAX_PROCESSES, os.cpu_count() or 1)


def parse_matching(text: str) -> Matching:
    """The value of ``--match``.

    Raises:
        UserError: If it is another word.
    """
    for known in get_args(Matching):
        if text.lower() == known:
            return known
    raise UserError(f"--match must be {' or '.join(get_args(Matching))}, not {text!r}")


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
    match: Matching,
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
    if images_dir is not None and not images_dir.is_dir():
        raise UserError(f"the folder of images {images_dir} does not exist; mend --images or leave it out")
    dataset_json_file = dataset_json_file or find_dataset_json(reference_dir, prediction_dir)
    dataset_json = read_dataset_json(dataset_json_file)
    output = output or prediction_dir / "evaluation"
    with progress_bar(console) as progress:
        task = progress.add_task("Evaluating", total=None)
        evaluation = evaluate_folders(
            reference_dir,
            prediction_dir,
            dataset_json,
            conventions,
            allow_missing=allow_missing,
            only_predicted=only_predicted,
            match=match,
            splits_file=splits_file,
            num_processes=num_processes,
            cache_dir=output / CACHE,
            progress=lambda done, total, case: progress.update(
                task, completed=done, total=total, description=escape(f"Evaluating {case}")
            ),
        )
    evaluation.save(output)
    overlays: list[Overlay] = []
    written = ["summary.json", "metrics.csv"]
    if write_report:
        raw = raw_folders([dataset_json_file, reference_dir, prediction_dir])
        overlays = worst_overlays(evaluation, dataset_json, images_dir, "Dice", n_worst, raw)
        title = str(dataset_json.get("name") or prediction_dir.resolve().name)
        write_together(output, {"report.html": report.evaluation_report(evaluation, overlays, title)})
        written.append("report.html")
    _show_evaluation(console, evaluation)
    if any(NOT_FOUND in overlay.caption for overlay in overlays):
        hint = "Images for pictures of the report were not found: name their folder with --images."
        console.print(Text(hint, style="yellow"), soft_wrap=True)
    console.print(Text(f"Written to {output}: {', '.join(written)}"), soft_wrap=True)
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
    files = {
        "tables.md": "\n".join(t.markdown() for t in made),
        "tables.tex": "\n".join(t.latex() for t in made),
        "comparison.csv": statistics.as_frame(results).to_csv(index=False),
        "report.html": report.comparison_report(models, results, notes, " · ".join(models)),
    }
    write_together(output, files)
    for note in notes:
        console.print(Text(note, style="yellow"))
    _show_comparison(console, results)
    console.print(Text(f"Written to {output}: {', '.join(sorted(files))}"), soft_wrap=True)
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


def progress_bar(console: Console) -> Progress:
    """A bar with the number of cases, gone when all are done."""
    columns: tuple[Any, ...] = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True)


def _print_table(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()
) -> None:
    """A table whose first column gives way where the terminal is narrow; numbers are never cut."""
    shown = RichTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for i, name in enumerate(head):
        widest = max(len(name), *(len(row[i]) for row in rows))
        if i == 0:
            shown.add_column(name, no_wrap=True, overflow="ellipsis")
        else:
            shown.add_column(name, justify="right", no_wrap=True, min_width=widest)
    for i, row in enumerate(rows):
        shown.add_row(*(Text(cell) for cell in row), style=styles[i] if styles else "")
    console.print(shown)


def _show_evaluation(console: Console, evaluation: Evaluation) -> None:
    scores = [n for n in evaluation.metrics if n.endswith("_score")]
    names = [*_TERMINAL_METRICS, *(scores or ["HD95"])]
    table = tables.summary_table(evaluation, names)
    counts = evaluation.counts()
    rows = []
    for label, cells in zip(tables.labels_and_mean(evaluation), table.rows, strict=True):
        last = ["" if label is None else str(counts.loc[label, k]) for k in ("missed", "false_positive", "scored")]
        rows.append([*(cell.text for cell in cells), *last])
    heads = ("Class", *(_short_head(metric(n)) for n in names), "missed", "false+", "n")
    _print_table(console, f"{len(evaluation.cases)} cases, mean ± std; all metrics are in the files", heads, rows)
    for note in evaluation.notes:
        console.print(Text(note, style="yellow"))
    for case in evaluation.cases:
        if case["note"]:
            console.print(Text(f"{case['case']} {case['note']}", style="yellow"), soft_wrap=True)
    words = dict(evaluation.conventions.describe())
    console.print(
        f"Conventions {words['Preset']}: {words['Surface']}; image edge {words['Image edge']}; a missed class has "
        f"{words['Class in only one label map']}.",
        style="dim",
        highlight=False,
    )


def _show_comparison(console: Console, results: Sequence[statistics.PairedResult]) -> None:
    pairs = {(r.first, r.second) for r in results}
    rows, styles = [], []
    for r in results:
        d = metric(r.metric)
        name = tables.class_name(r.label)
        rows.append(
            (
                name if len(pairs) == 1 else f"{r.second} − {r.first}, {name}",
                _short_head(d),
                tables.shown(d, r.difference),
                f"[{tables.shown(d, r.low)}, {tables.shown(d, r.high)}]",
                f"{r.wins}:{r.losses}",
                tables.p_value(r.p_holm),
            )
        )
        styles.append("" if not r.p_holm < 0.05 else "green" if r.wins > r.losses else "red")
    what = f"{results[0].second} − {results[0].first}" if len(pairs) == 1 else "Paired differences"
    title = f"{what}, {results[0].n} cases: mean difference, 95 % bootstrap interval, Wilcoxon with Holm"
    heads = ("Class", "Metric", "Difference", "Interval", "Won:lost", "p (Holm)")
    _print_table(console, title, heads, rows, styles)


def _short_head(described: Metric) -> str:
    return f"{described.title} {described.shown_unit}"
