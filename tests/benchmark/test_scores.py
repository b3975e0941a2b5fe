"""The table of scores that a cell keeps."""

import csv

import pytest

from nnunet_ext.benchmark.scores import HEADER, score
from nnunet_ext.benchmark.workspace import Run
from tests.benchmark.running import space_of
from tests.evaluation.folders import dataset


def test_counts_are_kept_for_metrics_of_all_cases_and_not_where_a_class_is_not_annotated(tmp_path):
    reference, prediction = dataset(tmp_path, annotated_labels={"case_1": ["liver"]})
    spec = space_of(tmp_path / "work", "Dataset090_X", Run(), metrics=["Dice", "Dice_global"]).spec
    rows = list(csv.DictReader(score(spec, reference, prediction, tmp_path / "dataset.json", None).splitlines()))
    assert tuple(rows[0]) == HEADER
    values = {(row["case"], row["label"], row["metric"]): row["value"] for row in rows}
    assert len(values) == 3 * 2 * 4  # cases, classes, Dice and three counts
    empty = {place for place, value in values.items() if not value}
    assert empty == {("case_1", "spleen", name) for name in ("Dice", "TP", "FP", "FN")}
    tp, fp, fn = (float(values["case_0", "liver", name]) for name in ("TP", "FP", "FN"))
    assert float(values["case_0", "liver", "Dice"]) == pytest.approx(2 * tp / (2 * tp + fp + fn))
