"""How predictions of a benchmark are scored: conventions, classes and the table that a cell keeps."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.spec import Spec
from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import Conventions, conventions_from
from nnunet_ext.evaluation.metrics import METRICS, POOLED_COUNTS, metric, metric_names, nsd_name

HEADER = ("case", "label", "metric", "value")


def conventions_of(spec: Spec) -> Conventions:
    """The conventions of a benchmark: its preset, with the surface Dice tolerances that its metrics name.

    Raises:
        UserError: a metric or the preset does not exist, or the first metric is of all cases together.
    """
    tolerances = []
    for name in spec.metrics:
        if not name.startswith("NSD_"):
            continue
        try:
            tolerance = float(name.removeprefix("NSD_").removesuffix("mm"))
        except ValueError:
            tolerance = math.nan
        if not math.isfinite(tolerance) or nsd_name(tolerance) != name:
            raise UserError(f"{spec.name}: there is no metric {name}: a surface Dice is named like NSD_2mm.")
        tolerances.append(tolerance)
    made = conventions_from(spec.preset, nsd_tolerances_mm=tuple(tolerances) or None)
    known = [*metric_names(made), *(one.name for one in METRICS.values() if one.pooled)]
    for name in spec.metrics:
        if name not in known:
            advice = (
                f"it needs another preset than {spec.preset}." if name in METRICS else f"there are {', '.join(known)}."
            )
            raise UserError(f"{spec.name}: there is no metric {name}: {advice}")
    if metric(first := spec.metrics[0]).pooled:
        raise UserError(
            f"{spec.name}: the first metric compares arms case by case, and {first} is of all cases together: begin "
            f"with another one, as {first.partition('_')[0]}."
        )
    return made


def of_single_cases(metrics: Sequence[str]) -> list[str]:
    """The metrics that a case has a value of, by which arms are compared case by case."""
    return [name for name in metrics if not metric(name).pooled]


def columns_of(metrics: Sequence[str]) -> list[str]:
    """What is kept of each case: its metrics, and the counts where metrics of all cases together are made of them."""
    found = of_single_cases(metrics)
    return found if len(found) == len(metrics) else [*found, *POOLED_COUNTS]


def with_merged(dataset_json: Mapping[str, Any], merged: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A ``dataset.json`` with further classes, each the union of others.

    Raises:
        UserError: a class to merge does not exist, or one of the new name does.
    """
    labels = dict(dataset_json["labels"])
    made = dict(labels)
    for name, parts in merged.items():
        if name in labels:
            raise UserError(f"merged: {name} is a class of the dataset already: choose another name.")
        values: list[int] = []
        for part in parts:
            if part not in labels:
                raise UserError(f"merged: {name} has {part}, which is no class: there are {', '.join(labels)}.")
            own = labels[part]
            values += own if isinstance(own, list) else [own]
        made[name] = sorted(set(values))
    return {**dataset_json, "labels": made}


def score(spec: Spec, references: Path, predictions: Path, dataset_json: Path, cases: Sequence[str] | None) -> str:
    """Score a folder of predictions; gives the content of ``metrics.csv``.

    Args:
        spec: the benchmark.
        references: folder of label maps.
        predictions: folder of label maps.
        dataset_json: of the dataset.
        cases: that must be there; ``None``: all of the references.

    Raises:
        UserError: a case is missing or cannot be scored.
    """
    from nnunet_ext.evaluation.folders import evaluate_folders  # imports pandas, which other steps do without
    from nnunet_ext.evaluation.targets import read_dataset_json

    evaluation = evaluate_folders(
        references,
        predictions,
        with_merged(read_dataset_json(dataset_json), spec.merged),
        conventions_of(spec),
        only_predicted=cases is not None,
        num_processes=spec.resources.cpus,
    )
    table = evaluation.table
    if cases is not None and (lacking := sorted(set(cases) - set(table["case"]))):
        raise UserError(f"{predictions} lacks {lacking[0]} ({len(lacking)} of {len(cases)} cases): predict again.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    columns = columns_of(spec.metrics)
    for row in table.sort_values(["case", "label"], kind="stable").to_dict("records"):
        for name in columns:
            value = math.nan if row["presence"] == "unannotated" else float(row[name])
            writer.writerow([row["case"], row["label"], name, "" if math.isnan(value) else repr(value)])
    return text.getvalue()
