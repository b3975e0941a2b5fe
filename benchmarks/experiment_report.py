"""Scores, tables and figures of an experiment: every case in a CSV, and what is made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import SimpleITK as sitk
from matplotlib.figure import Figure
from runs import Run
from scipy import ndimage

from nnunet_ext.core.figure_style import PALETTE, figure_style
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.statistics import bootstrap_interval

METRICS = ["Dice", "ASSD", "HD95", "NSD_2mm"]
DIGITS = {"Dice": 3, "ASSD": 2, "HD95": 1, "NSD_2mm": 3}
ALL = "mean"  # over the classes of the dataset


def score(
    arms: Mapping[str, Sequence[Run]], truth: Path, work: Path, merged: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Score the runs that are done.

    Args:
        arms: runs by the name of what they show.
        truth: preprocessed folder with the true labels.
        work: folder of the runs.
        merged: classes scored as one besides.

    Returns:
        A row for each arm, seed, fold, case and label.
    """
    dataset_json = json.loads((truth / "dataset.json").read_text())
    labels = dict(dataset_json["labels"])
    labels |= {name: [labels[part] for part in parts] for name, parts in merged.items()}
    tables = []
    for arm, runs in arms.items():
        for run in runs:
            if not (run.validation(work) / "summary.json").exists():
                continue
            table = evaluate_folders(
                truth / "gt_segmentations",
                run.validation(work),
                {**dataset_json, "labels": labels},
                Conventions(nsd_tolerances_mm=(2.0,)),
                only_predicted=True,
            ).table
            ending = dataset_json["file_ending"]
            counts = {}
            for case in table["case"].unique():
                predicted, true = (
                    sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"{case}{ending}")))
                    for folder in (run.validation(work), truth / "gt_segmentations")
                )
                for label in table["label"].unique():
                    values = np.atleast_1d(labels[label])
                    counts[case, label] = false_islands(np.isin(predicted, values), np.isin(true, values))
            found = [counts[key] for key in zip(table["case"], table["label"], strict=True)]
            tables.append(table.assign(arm=arm, seed=run.seed, fold=run.fold, islands=found))
    kept = ["arm", "seed", "fold", "case", "label", "presence", *METRICS, "islands"]
    return pd.concat(tables, ignore_index=True)[kept].round(5)


def false_islands(predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> int:
    """Number of connected components (by faces) of a prediction that do not touch the organ."""
    components, number = ndimage.label(predicted)
    return number - len(np.setdiff1d(np.unique(components[true]), [0]))


def with_means(scores: pd.DataFrame, merged: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """The scores and, as a label of its own, the mean over the classes of each case."""
    classes = scores[~scores["label"].isin(list(merged))]
    mean = classes.groupby(["arm", "seed", "fold", "case"], sort=False)[METRICS].mean().reset_index()
    return pd.concat([scores, mean.assign(label=ALL)], ignore_index=True)


def paired(scores: pd.DataFrame, arm: str, reference: str, label: str, name: str) -> pd.DataFrame:
    """One metric of both arms in the cases that both have, the mean over seeds; index: case."""
    keys = ["seed", "fold", "case"]
    chosen = scores[scores["label"] == label].set_index(["arm", *keys])[name]
    both = pd.concat({"reference": chosen.loc[reference], "arm": chosen.loc[arm]}, axis=1, join="inner")
    both = both.fillna(metric(name).ideal)  # in neither map of one arm: it is right
    return both.groupby("case").mean()


def table(scores: pd.DataFrame, reference: str) -> list[str]:
    """Markdown lines: for every arm and label the means of both arms on common cases and the paired differences."""
    lines = ["| arm | label | cases | " + " | ".join(f"{m} | minus {reference}" for m in METRICS) + " |"]
    lines.append("|---|---|---|" + "---|---|" * len(METRICS))
    for arm in scores["arm"].unique():
        labels = scores.loc[scores["arm"] == arm, "label"].unique()
        for label in labels:
            cells = []
            for name in METRICS:
                values = paired(scores, arm, reference, label, name)
                digits = DIGITS[name]
                cells.append(f"{values['arm'].mean():.{digits}f}")
                if arm == reference:
                    cells.append("")
                    continue
                difference = (values["arm"] - values["reference"]).to_numpy()
                low, high = bootstrap_interval(difference, np.random.default_rng(0))
                cells.append(f"{difference.mean():+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
            lines.append(f"| {arm} | {label} | {len(values)} | " + " | ".join(cells) + " |")
    return lines


def by_fold(scores: pd.DataFrame) -> list[str]:
    """Markdown lines: the mean Dice over classes and cases, fold by fold."""
    means = scores[scores["label"] == ALL].groupby(["arm", "fold"], sort=False)["Dice"].mean().unstack("fold")
    lines = ["| arm | " + " | ".join(f"fold {fold}" for fold in means.columns) + " |"]
    lines.append("|---|" + "---|" * means.shape[1])
    for arm, row in means.iterrows():
        lines.append(f"| {arm} | " + " | ".join("" if np.isnan(v) else f"{v:.3f}" for v in row) + " |")
    return lines


@figure_style()
def figure(scores: pd.DataFrame, reference: str, file: Path) -> None:
    """Dots: for every label the Dice of each arm minus that of the reference, case by case, with mean and interval."""
    arms = [arm for arm in scores["arm"].unique() if arm != reference]
    labels = list(scores["label"].unique())
    drawing = Figure(figsize=(1.6 + 1.3 * len(labels), 3.2), layout="constrained")
    axes = drawing.subplots()
    for number, arm in enumerate(arms):
        colour = PALETTE[number % len(PALETTE)]
        for place, label in enumerate(labels):
            values = paired(scores, arm, reference, label, "Dice")
            difference = (values["arm"] - values["reference"]).to_numpy()
            low, high = bootstrap_interval(difference, np.random.default_rng(0))
            x = place + 0.7 * ((number + 0.5) / len(arms) - 0.5)
            axes.plot(np.full(difference.size, x), difference, "o", color=colour, alpha=0.35, markersize=3)
            axes.plot([x, x], [low, high], color=colour, linewidth=2)
            axes.plot([x], [difference.mean()], "D", color=colour, markersize=5, label=arm if place == 0 else None)
    axes.axhline(0, color="0.5", linewidth=0.8)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(f"Dice minus {reference}")
    axes.legend(fontsize=8, frameon=False)
    drawing.savefig(file, dpi=90)


def write(output: Path, heading: str, answer: str, merged: Mapping[str, Sequence[str]]) -> None:
    """Write the .md and .png of the CSV beside them.

    Args:
        output: file name without suffix.
        heading: question, machine, data and budget.
        answer: what the result says.
        merged: labels of the CSV that are unions of others.
    """
    raw = pd.read_csv(output.with_suffix(".csv"))
    scores = with_means(raw, merged)
    reference = str(scores["arm"].iloc[0])
    classes = raw[~raw["label"].isin(list(merged))]
    common = classes.groupby(["seed", "fold", "case"])["arm"].transform("nunique") == classes["arm"].nunique()
    faults = classes[common].assign(missed=classes["presence"] == "missed").groupby("arm", sort=False)
    faults = faults[["missed", "islands"]].agg({"missed": "sum", "islands": "mean"})
    lines = [
        heading,
        "",
        *([answer.strip(), ""] if answer else []),
        "Means over cases (over seeds first), on the cases that both arms have, and paired differences with their 95 % "
        "bootstrap interval over cases; cases of a fold share a network, which the interval does not know. Dice, and "
        "NSD at 2 mm, as fraction, ASSD and HD95 in mm, conventions `papers`.",
        "",
        *table(scores, reference),
        "",
        f"![Dice minus {reference}, case by case; diamonds are means with their intervals]({output.name}.png)",
        "",
        "Mean Dice over classes, fold by fold:",
        "",
        *by_fold(scores),
        "",
        "In the cases that all arms have, organs missed altogether, and false islands (components that do not touch "
        "the organ) per organ and case: "
        + "; ".join(f"{arm} {row.missed:.0f}, {row.islands:.1f}" for arm, row in faults.iterrows())
        + ".",
    ]
    output.with_suffix(".md").write_text("\n".join(lines) + "\n")
    figure(scores, reference, output.with_suffix(".png"))
    print(output.with_suffix(".md").read_text())
