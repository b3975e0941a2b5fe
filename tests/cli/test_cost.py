"""``nnunet-ext cost`` and ``plan-for`` as a user calls them."""

from __future__ import annotations

import json
import math
import re

import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
    nnUNetPlannerResEncM,
)
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli.cost import run_cost, run_plan_for
from nnunet_ext.core.errors import UserError
from tests.conftest import PLANS, Dataset, slow

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


@slow
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


@pytest.mark.parametrize(
    ("planner", "kept"),
    [
        (ExperimentPlanner, {"3d_fullres", "3d_lowres", "3d_cascade_fullres"}),
        (nnUNetPlannerResEncM, {"3d_fullres"}),  # whose networks are deep: the others take too long
    ],
)
def test_residual_encoders_low_resolution_and_the_cascade(
    writable_dataset: Dataset, planner: type[ExperimentPlanner], kept: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = writable_dataset
    file = dataset.preprocessed / "dataset_fingerprint.json"
    fingerprint = json.loads(file.read_text())
    cases = len(fingerprint["spacings"])
    file.write_text(
        json.dumps(fingerprint | {"spacings": [[1.0] * 3] * cases, "shapes_after_crop": [[64, 96, 96]] * cases})
    )
    target = 0.2
    planner(dataset.name, gpu_memory_target_in_gb=target, plans_name="large").plan_experiment()
    stock = json.loads((dataset.preprocessed / "large.json").read_text())
    assert {*stock["configurations"]} >= kept
    stock["configurations"] = {name: each for name, each in stock["configurations"].items() if name in kept}
    (dataset.preprocessed / "large.json").write_text(json.dumps(stock))

    run_plan_for("nnUNetTrainer", dataset.id, "large", "same", target)
    assert json.loads((dataset.preprocessed / "same.json").read_text())["configurations"] == stock["configurations"]

    run_plan_for("nnUNetTrainerCascaded", dataset.id, "large", "fitting", target)
    fitting = json.loads((dataset.preprocessed / "fitting.json").read_text())
    for name in kept - {"3d_cascade_fullres"}:
        old, new = stock["configurations"][name], fitting["configurations"][name]
        assert new["batch_size"] * math.prod(new["patch_size"]) < old["batch_size"] * math.prod(old["patch_size"])
        assert new["architecture"]["network_class_name"] == old["architecture"]["network_class_name"]
        assert {key for key in old if new[key] != old[key]} <= {"patch_size", "batch_size", "architecture"}
    if "3d_cascade_fullres" not in kept:
        return
    assert fitting["configurations"]["3d_cascade_fullres"] == stock["configurations"]["3d_cascade_fullres"]
    second = PlansManager(fitting).get_configuration("3d_cascade_fullres")
    assert second.patch_size == fitting["configurations"]["3d_fullres"]["patch_size"]
    capsys.readouterr()
    run_cost(dataset.id, "3d_cascade_fullres", "fitting", ["nnUNetTrainerCascaded"])
    shown = capsys.readouterr().out
    patch = " x ".join(map(str, second.patch_size))
    assert f"on 3d_cascade_fullres of fitting: {second.batch_size} patches of {patch}." in shown
    assert "nnUNetTrainerCascaded" in shown


def test_a_configuration_that_does_not_suit_the_trainer_stays(
    writable_dataset: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = writable_dataset

    def memory(trainer: type, plans: dict, configuration: str, dataset_json: dict) -> int:
        if configuration == "2d":
            raise UserError("It has no place for slices.")
        return 2**30

    monkeypatch.setattr("nnunet_ext.training.cost.planning.memory_of_step", memory)
    run_plan_for("nnUNetTrainerMLL", dataset.id, "nnUNetPlans", "fitting", None)
    shown = capsys.readouterr().out
    assert "  2d is as it was: It has no place for slices." in shown
    assert "  3d_fullres: " in shown and "1.00 GiB of tensors, 1.00 times stock's" in shown
    before, after = (json.loads((dataset.preprocessed / f"{p}.json").read_text()) for p in ("nnUNetPlans", "fitting"))
    assert after["configurations"]["2d"] == before["configurations"]["2d"]
    monkeypatch.setattr(
        "nnunet_ext.training.cost.planning.memory_of_step", lambda trainer, plans, *_: memory(trainer, plans, "2d", {})
    )
    with pytest.raises(UserError, match="no place for slices"):
        run_plan_for("nnUNetTrainerMLL", dataset.id, "nnUNetPlans", "none", None)
