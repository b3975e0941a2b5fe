"""Tables of a work folder: nothing is dropped silently, and they can be written and read without a change."""

import json

import numpy as np
import pandas as pd
import pytest

from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.report.collect import Results, collect
from nnunet_ext.core.errors import UserError
from tests.benchmark.report.synthetic import (
    CONFIGURATION,
    FAILED,
    MISSING,
    PLANS,
    write_cell,
    write_rows,
    write_specification,
    write_work,
)

DATASET = "Dataset091_X"


def folder(work, arm="stock", fold=0, plans=PLANS):
    return Cell(DATASET, CONFIGURATION, plans, arm, "", fold, 0).folder(work)


def test_every_cell_asked_for_is_a_row(tmp_path):
    without = {(DATASET, "MLL", 0, 1): FAILED, (DATASET, "stock", 1, 0): MISSING}
    write_work(tmp_path, {"stock": 0, "MLL": 0.02}, seeds=2, without=without)
    cells = collect(tmp_path).cells.set_index(["arm", "fold", "seed"])
    assert len(cells) == 8
    assert cells["status"].value_counts().to_dict() == {"finished": 6, "failed": 1, "missing": 1}
    assert cells.loc[("MLL", 0, 1), "failure_kind"] == "out of memory"
    assert cells.loc[("MLL", 0, 1), "failure_message"] == "CUDA out of memory. Tried to allocate 2.00 GiB"
    missing = cells.loc[("stock", 1, 0)]
    assert missing["status"] == "missing" and missing["attempts"] == 0 and pd.isna(missing["wall_seconds"])


def test_values_are_those_of_the_files(tmp_path):
    write_specification(tmp_path, arms={"stock": "nnUNetTrainer"}, folds=[0])
    rows = [
        ("001", "NA", "Dice", 0.1 + 0.2),
        ("001", "2", "Dice", ""),
        ("002", "NA", "Dice", "inf"),
        ("002", "2", "Dice", 1),
    ]
    cell = Cell(DATASET, CONFIGURATION, PLANS, "stock", "nnUNetTrainer", 0, 0)
    write_cell(tmp_path, cell, rows)
    write_rows(cell.folder(tmp_path) / "test_other.csv", ("case", "label", "metric", "value"), rows[:2])
    values = collect(tmp_path).values
    kept = values[values["test_set"] == ""]
    assert kept["case"].tolist() == ["001", "001", "002", "002"]
    assert kept["label"].tolist() == ["NA", "2", "NA", "2"]
    np.testing.assert_array_equal(kept["value"], [0.1 + 0.2, np.nan, np.inf, 1.0])
    assert values[values["test_set"] == "other"]["case"].tolist() == ["001", "001"]


def test_numbers_are_read_to_the_last_digit(tmp_path):
    write_specification(tmp_path, arms={"stock": "nnUNetTrainer"}, folds=[0])
    numbers = np.random.default_rng(0).random(2000).tolist()
    rows = [(f"{i:04d}", "liver", "Dice", repr(number)) for i, number in enumerate(numbers)]
    write_cell(tmp_path, Cell(DATASET, CONFIGURATION, PLANS, "stock", "nnUNetTrainer", 0, 0), rows)
    assert collect(tmp_path).values["value"].tolist() == numbers


def test_tables_are_the_same_after_a_round_through_text(tmp_path):
    write_work(
        tmp_path,
        {"stock": 0, "NA": 0.02},
        metrics=("Dice", "HD95"),
        labels=("NA", "null", 'an, "odd"\r\n\rorgan '),
        without={(DATASET, "stock", 1, 0): FAILED},
        undefined={("case_001", "NA")},
    )
    first = collect(tmp_path)
    files = first.to_files()
    again = Results.from_files(files)
    for name in ("cells", "values", "curves", "attempts"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name), check_exact=True)
        assert len(getattr(first, name)) > 0
    assert again.to_files() == files
    assert again.content == first.content and again.environment == first.environment


def test_an_empty_matrix_is_a_table_of_missing_cells(tmp_path):
    write_specification(tmp_path)
    results = collect(tmp_path)
    assert results.cells["status"].tolist() == ["missing"] * 4
    assert results.values.empty and results.curves.empty
    assert Results.from_files(results.to_files()).to_files() == results.to_files()


def test_a_dataset_given_by_number_has_the_name_of_its_folder(tmp_path):
    write_work(tmp_path, {"stock": 0}, datasets=("Dataset091_X", "Dataset092_Y"), folds=1)
    content = json.loads((tmp_path / "benchmark.json").read_text())
    content["datasets"] = [92, {"id": 93}]
    (tmp_path / "benchmark.json").write_text(json.dumps(content))
    results = collect(tmp_path)
    assert results.cells[["dataset", "status"]].to_numpy().tolist() == [
        ["Dataset092_Y", "finished"],
        ["Dataset093", "missing"],
    ]
    assert results.notes == ("Cells in the folder that the specification does not ask for, left out: 1.",)


def test_an_arm_with_plans_of_its_own_stands_beside_the_others(tmp_path):
    arms = {"stock": "nnUNetTrainer", "MLL": {"trainer": "nnUNetTrainerMLL", "plans": "OtherPlans"}}
    write_specification(tmp_path, arms=arms, folds=[0])
    for arm, plans in (("stock", PLANS), ("MLL", "OtherPlans")):
        write_cell(tmp_path, Cell(DATASET, CONFIGURATION, plans, arm, "nnUNetTrainer", 0, 0), [("c", "l", "Dice", 0.5)])
    cells = collect(tmp_path).cells
    assert cells[["plans", "cell_plans", "arm", "status"]].to_numpy().tolist() == [
        [PLANS, PLANS, "stock", "finished"],
        [PLANS, "OtherPlans", "MLL", "finished"],
    ]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda work: (work / "benchmark.json").unlink(), "holds no benchmark"),
        (lambda work: (work / "benchmark.json").write_text("{"), "cannot read .*benchmark.json"),
        (lambda work: (work / "benchmark.json").write_text('{"name": "x"}'), "names no datasets"),
        (lambda work: (folder(work) / "metrics.csv").unlink(), "metrics.csv is absent though the cell is finished"),
        (lambda work: (folder(work) / "metrics.csv").write_text("case,label\n"), "metrics.csv .*no column metric"),
        (lambda work: (folder(work) / "curves.csv").write_text("epoch\nx\n"), "cannot read .*curves.csv"),
        (lambda work: write_specification(work, metrics=["Dise"]), "unknown metric Dise"),
        (lambda work: write_specification(work, published=[{"arm": "x"}]), "a published number lacks 'metric'"),
        (lambda work: write_specification(work, arms={}), "names no arm"),
    ],
)
def test_a_damaged_work_folder_is_one_sentence(tmp_path, spoil, words):
    write_work(tmp_path, {"stock": 0})
    spoil(tmp_path)
    with pytest.raises(UserError, match=words):
        collect(tmp_path)


@pytest.mark.parametrize(("change", "words"), [(lambda r: r[:-1], "lacks rows"), (lambda r: [*r, r[1]], "twice")])
def test_a_row_too_few_is_not_a_value_that_is_not_defined(tmp_path, change, words):
    write_work(tmp_path, {"stock": 0})
    path = folder(tmp_path) / "metrics.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    with pytest.raises(UserError, match=words):
        collect(tmp_path)
