"""The fairness guard refuses what must not be compared, and lets pass what was declared."""

import pytest

from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.guard import ALWAYS_EQUAL, EQUAL_UNLESS_DECLARED, refuse_unfair, remarks
from nnunet_ext.core.errors import UserError
from tests.benchmark.report.synthetic import CONFIGURATION, PLANS, write_cell, write_specification

ROWS = [("case", "liver", "Dice", 0.9)]


def write(work, arm="stock", fold=0, seed=0, rows=ROWS, own_plans=PLANS, status="finished", **changes):
    cell = Cell("Dataset091_X", CONFIGURATION, own_plans, arm, f"nnUNetTrainer{arm}", fold, seed)
    write_cell(work, cell, rows, status, changes=changes)


def test_cells_that_agree_pass(tmp_path):
    write_specification(tmp_path)
    for arm in ("stock", "MLL"):
        for fold in (0, 1):
            write(tmp_path, arm, fold)
    refuse_unfair(collect(tmp_path))


@pytest.mark.parametrize("field", [*ALWAYS_EQUAL, *EQUAL_UNLESS_DECLARED])
def test_a_field_that_differs_is_named_with_its_cells(tmp_path, field):
    write_specification(tmp_path, seeds=[0, 1])
    write(tmp_path, "stock", fold=1)
    write(tmp_path, "MLL", fold=1, seed=1, **{field: "another-value"})
    with pytest.raises(
        UserError, match=r"Dataset091_X 3d_fullres fold 1: stock .*seed 0\) and MLL .*seed 1\)"
    ) as caught:
        refuse_unfair(collect(tmp_path))
    words = {"split": "the split", "labels": "the reference labels", "metrics": "the conventions of the metrics"}
    assert f"differ in {words.get(field, field)} (" in str(caught.value)
    assert "another-valu)" in str(caught.value)


@pytest.mark.parametrize("declared", [{"options": {"a": 1}}, {"differs": ["plans", "preprocessed"]}, {"plans": "P"}])
@pytest.mark.parametrize("field", EQUAL_UNLESS_DECLARED)
def test_declared_differences_pass(tmp_path, declared, field):
    write_specification(tmp_path, arms={"stock": "nnUNetTrainer", "MLL": {"trainer": "nnUNetTrainerMLL"} | declared})
    write(tmp_path, "stock")
    write(tmp_path, "MLL", **{field: "another-value"})
    results = collect(tmp_path)
    refuse_unfair(results)
    assert remarks(results) == ["Plans or options of their own: MLL."]


def test_a_declaration_does_not_cover_the_split(tmp_path):
    arms = {"stock": "nnUNetTrainer", "MLL": {"trainer": "nnUNetTrainerMLL", "differs": ["plans", "preprocessed"]}}
    write_specification(tmp_path, arms=arms)
    write(tmp_path, "stock")
    write(tmp_path, "MLL", split="another-value")
    with pytest.raises(UserError, match="the split"):
        refuse_unfair(collect(tmp_path))


def test_plans_of_the_matrix_differ_among_themselves_only_in_plans(tmp_path):
    write_specification(tmp_path, plans=[PLANS, "ResEncPlans"], arms={"stock": "nnUNetTrainer"}, folds=[0])
    write(tmp_path)
    write(tmp_path, own_plans="ResEncPlans", preprocessed="other")
    refuse_unfair(collect(tmp_path))
    write(tmp_path, own_plans="ResEncPlans", labels="other")
    with pytest.raises(UserError, match="the reference labels"):
        refuse_unfair(collect(tmp_path))


def test_failed_cells_are_not_compared(tmp_path):
    write_specification(tmp_path)
    write(tmp_path, "stock")
    write(tmp_path, "MLL", status="failed", split="another-value")
    refuse_unfair(collect(tmp_path))


def test_arms_scored_on_other_classes_are_refused(tmp_path):
    write_specification(tmp_path)
    write(tmp_path, "stock")
    write(tmp_path, "MLL", rows=[("case", "spleen", "Dice", 0.9)])
    with pytest.raises(UserError, match=r"stock and MLL were not scored on the same classes \('liver'\)"):
        refuse_unfair(collect(tmp_path))


def test_other_devices_and_lengths_are_remarked(tmp_path):
    write_specification(tmp_path)
    write(tmp_path, "stock")
    cell = Cell("Dataset091_X", CONFIGURATION, PLANS, "MLL", "nnUNetTrainer", 0, 0)
    write_cell(tmp_path, cell, ROWS, epochs=9, changes={"device": "NVIDIA H100"})
    assert remarks(collect(tmp_path)) == [
        "Cells were trained under different devices, so costs are given for each device: NVIDIA H100, cpu.",
        "Arms differ in epochs: stock 6, MLL 9.",
    ]


def test_a_metric_that_was_not_scored_is_remarked(tmp_path):
    write_specification(tmp_path, metrics=["Dice", "HD95"])
    write(tmp_path)
    assert remarks(collect(tmp_path)) == ["Asked for but not scored: HD95."]
