"""The papers' experiments are benchmark files whose trainers, metrics and converters exist."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataset_conversion.registry import CONVERTERS
from nnunet_ext.benchmark import checks
from nnunet_ext.benchmark.matrix import number_of_cells
from nnunet_ext.benchmark.records import read_records
from nnunet_ext.benchmark.small import _WRITERS, PLANS, shrink
from nnunet_ext.benchmark.spec_file import load
from nnunet_ext.core.environment import FOLDER_VARIABLES
from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.metrics import METRICS
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.plugin.startup import VARIABLE
from tests.conftest import slow

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))
OWN = sorted((FOLDER / "open_data").glob("*.yaml"))
# What a method stands on in its paper, where that is not stock nnU-Net.
BASELINES = {"chaos_t2_refined_gan": ("Dice", "nnUNetTrainerAuxiliaryGAN")}


def test_all_papers_are_there():
    assert {file.stem.split("_")[0] for file in FILES} == {"lian2025", "liu2022", "huang2024", "conze2021", "zhou2019"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_file(file):
    spec = load(file)
    assert spec.name == file.stem and spec.question
    checks.check_metrics(spec)
    assert {arm.trainer for arm in spec.arms if not arm.ensemble} <= {"nnUNetTrainer", *TRAINERS}
    assert {"nnUNetTrainer"} < {arm.trainer for arm in spec.arms}
    for dataset in [part for one in spec.datasets for part in (one, *one.after)]:
        assert dataset.convert in {converter.command for converter in CONVERTERS}
        assert dataset.source is None or dataset.convert in _WRITERS
    for entry in spec.published:
        assert entry["metric"] in METRICS and entry["metric"] in spec.metrics
        assert isinstance(entry["value"], float) and "Table" in entry["source"]


@pytest.mark.parametrize("file", OWN, ids=lambda file: file.stem)
def test_file_of_our_own(file, monkeypatch):
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(file.parent / "trainers"), os.environ.get(VARIABLE, "")]))
    spec = load(file)
    baseline = BASELINES.get(file.stem, ("stock", "nnUNetTrainer"))
    assert spec.name == file.stem and spec.question and (spec.arms[0].name, spec.arms[0].trainer) == baseline
    checks.check_trainers(spec)
    assert all(dataset.convert for dataset in spec.datasets)


@pytest.mark.parametrize(("name", "cells"), [("liu2022_pancreas", 12 * 4), ("huang2024", 3 * 5 * 3)])
def test_cells_are_counted_before_the_conversion(name, cells):
    """An arm with plans of its own is no cell of the other plans."""
    assert number_of_cells(load(FOLDER / f"{name}.yaml")) == cells


def test_data_that_is_not_there_is_named(tmp_path, monkeypatch):
    for variable in FOLDER_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.delenv("LITS", raising=False)
    with pytest.raises(UserError, match="the source of dataset 532: set LITS to its folder"):
        checks.check_environment(load(next(file for file in FILES if file.stem == "huang2024")))


@slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_small_goes_from_the_source_to_the_report(file, tmp_path):
    """Official layout, conversion, planning, training, ensembles, scores and tables beside the printed numbers."""
    work = tmp_path / "work_small"  # where --small goes, beside the work folder
    for command, folder in (
        (["run", file, "--small", "--gpus", "none", "--cores", "2"], tmp_path / "work"),
        (["report", file], work),
    ):
        done = subprocess.run(
            [Path(sys.executable).parent / "nnunet-ext", "benchmark", *command, "--work", folder],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    records = list(read_records(work))
    assert {record.status for record in records} == {"finished"}
    assert {record.cell.arm for record in records} == {arm.name for arm in load(file).arms}
    assert "printed numbers beside ours" in (work / "report" / "tables.md").read_text()


def test_small_writes_the_official_layouts(tmp_path, monkeypatch):
    for variable in (*FOLDER_VARIABLES, "NNUNET_EXT_VGG19", "NNUNET_EXT_RESNET18"):
        monkeypatch.setenv(variable, "")
    spec = shrink(load(next(file for file in FILES if file.stem == "lian2025_liver")), tmp_path)
    assert [plans.name for plans in spec.plans] == [PLANS] and (spec.epochs, spec.iterations, spec.folds) == (
        1,
        1,
        (0,),
    )
    assert list(spec.datasets[0].source.rglob("*.mhd"))
    named = checks.check_environment(spec)
    assert named.datasets[0].name is None  # is to be converted


def test_small_networks_are_narrow_and_views_are_turned_small_plans(tmp_path, monkeypatch):
    for variable in (*FOLDER_VARIABLES, "NNUNET_EXT_VGG19", "NNUNET_EXT_RESNET18"):
        monkeypatch.setenv(variable, "")
    spec = shrink(load(FOLDER / "liu2022_spleen.yaml"), tmp_path)
    assert [plans.name for plans in spec.plans] == [PLANS, f"{PLANS}_view2", f"{PLANS}_view3"]
    arms = {arm.name: arm for arm in spec.arms}
    assert arms["MLN_view3"].plans == f"{PLANS}_view3" and arms["MLN_vote"].fuse == "vote"
    assert arms["MLN_view3"].options["channels"] == 8 and arms["stock"].options == arms["MLL"].options == {}
    checks.check_trainers(spec)
