"""``nnunet-ext cost`` and ``plan-for`` as a user calls them."""

from __future__ import annotations

import json
import re

import pytest

from nnunet_ext.cli.cost import run_cost, run_plan_for
from nnunet_ext.core.errors import UserError
from tests.conftest import PLANS, Dataset

NAMES = ("nnUNetTrainer", "nnUNetTrainerSDNet")


def test_cost_prints_numbers_and_ratios(
    dataset: Dataset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    run_cost(dataset.id, "2d", PLANS, ["nnUNetTrainerSDNet"])
    shown = capsys.readouterr().out
    stock, ours = (next(line for line in shown.splitlines() if f" {name} " in f" {line} ") for name in NAMES)
    assert stock.count("x1.00") == 3
    ratios = [float(ratio) for ratio in re.findall(r" x([\d.]+)", ours)]
    assert len(ratios) == 3
    assert all(1.3 < ratio < 3 for ratio in ratios)  # two networks, of which one has residual blocks


@pytest.mark.parametrize(
    ("configuration", "plans", "trainer", "message"),
    [
        ("4d", PLANS, "nnUNetTrainer", "no configuration 4d"),
        ("2d", "noPlans", "nnUNetTrainer", "There is no"),
        ("2d", PLANS, "nnUNetTrainerSDNett", "did you mean nnUNetTrainerSDNet"),
    ],
)
def test_bad_input_is_one_sentence(
    dataset: Dataset, configuration: str, plans: str, trainer: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        run_cost(dataset.id, configuration, plans, [trainer])


def test_plans_made_for_two_networks_train(writable_dataset: Dataset) -> None:
    dataset = writable_dataset
    run_plan_for("nnUNetTrainerSDNetLabelled", dataset.id, "nnUNetPlans", "fitting", 0.3)
    before, after = (
        json.loads((dataset.preprocessed / f"{name}.json").read_text()) for name in ("nnUNetPlans", "fitting")
    )
    assert after["plans_name"] == "fitting"
    for name in ("2d", "3d_fullres"):
        old, new = before["configurations"][name], after["configurations"][name]
        assert new["data_identifier"] == old["data_identifier"]
        assert new["spacing"] == old["spacing"]
        assert new["batch_size"] >= 2
    run_plan_for("nnUNetTrainer", dataset.id, "nnUNetPlans", "stock", None)  # the same as the planner's own
    same = json.loads((dataset.preprocessed / "stock.json").read_text())["configurations"]
    for name, configuration in before["configurations"].items():
        assert same[name] == configuration
    with pytest.raises(UserError, match="exists already"):
        run_plan_for("nnUNetTrainer", dataset.id, "nnUNetPlans", "fitting", None)
    trainer = "nnUNetTrainerSDNetLabelled_2epochs_1iters"
    dataset.run("nnUNetv2_train", dataset.id, "2d", 0, "-tr", trainer, "-p", "fitting", "-device", "cpu")
    assert (dataset.results / f"{trainer}__fitting__2d" / "fold_0" / "checkpoint_final.pth").is_file()
