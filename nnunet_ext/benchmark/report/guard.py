"""Fairness guard: arms are compared only where they were trained and scored on the same thing."""

from __future__ import annotations

import pandas as pd

from nnunet_ext.benchmark.report.collect import PLACE, Results
from nnunet_ext.benchmark.report.specification import Setting, Specification
from nnunet_ext.benchmark.scores import columns_of
from nnunet_ext.core.errors import UserError

ALWAYS_EQUAL = ("split", "dataset_json", "labels", "metrics", "nnunetv2", "torch")
EQUAL_UNLESS_DECLARED = ("preprocessed", "plans")
_GROUP = ["dataset", "configuration", "plans", "fold"]
_SHOWN = 12  # characters of a hash


def refuse_unfair(results: Results) -> None:
    """Refuse finished cells that must agree over arms and do not.

    Within a dataset, configuration, plans and fold: split, ``dataset.json``, labels, metrics, and the versions of
    nnU-Net and torch agree; preprocessed data and plans too, but for arms that declare plans or options of their own.
    The first three, the metrics and the versions agree over plans as well.

    Raises:
        UserError: Names two cells and the field in which they differ.
    """
    specification = results.specification
    finished = results.cells[results.cells["status"] == "finished"]
    for fields, group in ((ALWAYS_EQUAL, [n for n in _GROUP if n != "plans"]), (EQUAL_UNLESS_DECLARED, _GROUP)):
        for _, cells in finished.groupby(group, sort=False):
            for field in fields:
                _refuse(cells[~cells["arm"].isin(_exempt(specification, field))], field)
    _refuse_other_classes(results, specification)


def remarks(results: Results) -> list[str]:
    """Differences that are allowed, but that a reader must know of."""
    finished = results.cells[results.cells["status"] == "finished"]
    found = []
    for column, words in (
        ("fingerprint_device", "devices, so costs are given for each device"),
        ("fingerprint_nnunet_ext", "versions of nnunet_ext"),
        ("fingerprint_python", "versions of Python"),
    ):
        values = sorted(set(finished[column]))
        if len(values) > 1:
            found.append(f"Cells were trained under different {words}: {', '.join(values)}.")
    # Epochs of the curves: a record also counts those that were trained twice after a crash.
    lengths = results.curves.groupby(PLACE, sort=False)["epoch"].agg(lambda epochs: int(epochs.max()) + 1)
    for words, values in (
        ("epochs", lengths.reset_index().set_index("arm")["epoch"]),
        ("iterations an epoch", finished.set_index("arm")["iterations_per_epoch"]),
        ("batch size", finished.set_index("arm")["batch_size"]),
    ):
        spans = {arm: _span(own) for arm, own in values.dropna().groupby(level=0, sort=False)}
        if len(set(spans.values())) > 1:
            found.append(f"Arms differ in {words}: {', '.join(f'{arm} {span}' for arm, span in spans.items())}.")
    scored = set(results.values["metric"])
    if scored and (
        absent := [name for name in results.specification.metrics if not scored.issuperset(columns_of([name]))]
    ):
        found.append(f"Asked for but not scored: {', '.join(absent)}.")
    declared = [arm.name for arm in results.specification.arms if arm.may_differ]
    if declared:
        found.append(f"Plans or options of their own: {', '.join(declared)}.")
    return found


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low}–{high}"


def _exempt(specification: Specification, field: str) -> list[str]:
    return [arm.name for arm in specification.arms if field in arm.may_differ]


def _refuse(cells: pd.DataFrame, field: str) -> None:
    column = f"fingerprint_{field}"
    if cells[column].nunique() < 2:
        return
    first = cells.iloc[0]
    other = cells[cells[column] != first[column]].iloc[0]
    what = {"split": "the split", "labels": "the reference labels", "metrics": "the conventions of the metrics"}
    where = f"{first['dataset']} {first['configuration']} fold {first['fold']}"
    raise UserError(
        f"{where}: {_cell(first)} and {_cell(other)} must not be compared, as they differ in "
        f"{what.get(field, field)} ({first[column][:_SHOWN]} and {other[column][:_SHOWN]}); remove the folder of the "
        "wrong one and run the benchmark again"
    )


def _cell(row: pd.Series) -> str:
    return f"{row['arm']} ({row['plans']}, seed {row['seed']})"


def _refuse_other_classes(results: Results, specification: Specification) -> None:
    place = ["dataset", "configuration", "plans", "test_set"]
    for _, values in results.values.groupby(place, sort=False):
        classes = {str(arm): frozenset(labels.unique()) for arm, labels in values.groupby("arm", sort=False)["label"]}
        (first, expected), *others = classes.items()
        for arm, own in others:
            if odd := sorted(own ^ expected):
                setting = Setting(*values[place].iloc[0])
                raise UserError(
                    f"{specification.title(setting)}: {first} and {arm} were not scored on the same classes "
                    f"({odd[0]!r}); remove the folders of the wrong one and run the benchmark again"
                )
