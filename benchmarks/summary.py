"""Tables of finished runs: mean ± standard deviation over runs, and paired comparison over cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runs import Run

METRICS = ["Dice", "ASSD", "HD95"]


def with_spread(mean: float, spread: float, sign: str = "") -> str:
    """Mean ± standard deviation, which a single run has not."""
    return f"{mean:{sign}.4f}" + ("" if math.isnan(spread) else f" ± {spread:.4f}")


def write(
    arms: Mapping[str, Sequence[Run]], truth: Path, work: Path, heading: str, output: Path, reference: str
) -> None:
    """Write ``output`` with suffixes .md (tables) and .csv (all cases).

    Args:
        arms: runs by the name of what they show; the n-th run of each has the same validation cases.
        truth: preprocessed folder with the true labels of all validation cases.
        work: folder of the runs.
        heading: what was done, a paragraph.
        output: file name without suffix.
        reference: the arm that the others are compared with.
    """
    import pandas as pd

    from nnunet_ext.evaluation.folders import evaluate_folders
    from nnunet_ext.evaluation.statistics import as_frame, compare

    dataset_json = json.loads((truth / "dataset.json").read_text())
    evaluations, tables = {}, []
    for arm, runs in arms.items():
        cases = []
        for number, run in enumerate(runs):
            evaluation = evaluate_folders(
                truth / "gt_segmentations", run.validation(work), dataset_json, only_predicted=True
            )
            table = evaluation.table.assign(run=number)
            cases.append(table.assign(case=[f"{number}/{case}" for case in table["case"]]))
        table = pd.concat(cases, ignore_index=True).assign(arm=arm)
        tables.append(table)
        evaluations[arm] = replace(evaluation, table=table)
    everything = pd.concat(tables, ignore_index=True)
    by_run = everything.groupby(["arm", "label", "run"], sort=False)[METRICS].mean()
    foreground = everything.groupby(["arm", "run"], sort=False)[METRICS].mean()
    foreground = foreground.assign(label="mean").set_index("label", append=True)
    by_run = pd.concat([by_run, foreground.reorder_levels(["arm", "label", "run"])])

    lines = [f"| | label | {' | '.join(METRICS)} | Dice minus {reference}, run by run |"]
    lines.append("|---|---|" + "---|" * (len(METRICS) + 1))
    compared = by_run.xs(reference, level="arm")["Dice"]
    for (arm, label), values in by_run.groupby(["arm", "label"], sort=False):
        mean, spread = values.mean(), values.std(ddof=1)
        cells = [with_spread(mean[m], spread[m]) for m in METRICS]
        difference = values["Dice"].droplevel(["arm", "label"]) - compared.xs(label, level="label")
        cells.append(with_spread(difference.mean(), difference.std(ddof=1), "+"))
        lines.append(f"| {arm} | {label} | " + " | ".join(cells) + " |")

    ordered = {reference: evaluations[reference], **evaluations}
    tests = as_frame(compare(ordered, METRICS))
    columns = ["second", "label", "metric", "n", "difference", "low", "high", "wins", "losses", "p_holm"]
    lines += ["", f"Paired over cases against {reference} (95 % bootstrap interval, Wilcoxon with Holm):", ""]
    lines += ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for _, row in tests[columns].iterrows():
        lines.append("| " + " | ".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in row) + " |")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".md").write_text("\n".join([heading, "", *lines]) + "\n")
    kept = ["arm", "run", "case", "label", *METRICS]
    everything[kept].round(5).to_csv(output.with_suffix(".csv"), index=False)
    print(output.with_suffix(".md").read_text())
