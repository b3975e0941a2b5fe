import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from nnunet_ext.benchmark import checks
from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.records import METRICS, Fingerprint, Record, Usage
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.benchmark.workspace import Run
from nnunet_ext.cli.app import app
from nnunet_ext.core.errors import UserError
from tests.benchmark.running import content, space_of, write
from tests.conftest import PLANS, Dataset


def spec(**changes):
    return parse(content(plans=[PLANS], **changes), "benchmark.yaml", Path("/data"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"datasets": [{"id": 7}]}, r"has no dataset 7 \(there: Dataset090_PhantomAbdomen\)"),
        ({"datasets": [{"id": 7, "convert": "lits"}]}, "dataset 7 needs 'source:'"),
        ({"datasets": [{"id": 7, "convert": "lits", "source": "gone"}]}, "there is no /data/gone"),
        ({"datasets": [{"id": 7, "convert": "chaos"}]}, "convert has no chaos: there are msd"),
        ({"arms": {"a": "nnUNetTrainerMML"}}, "did you mean .*nnUNetTrainerMLL"),
        ({"arms": {"a": {"trainer": "nnUNetTrainer", "options": {"x": 1}}}}, "is no trainer of nnunet_ext"),
        (
            {"arms": {"a": {"trainer": "nnUNetTrainerMLL", "options": {"boundary_wait": 1}}}},
            "did you mean boundary_weight",
        ),
        (
            {"arms": {"a": {"trainer": "nnUNetTrainerMLL", "options": {"boundary_weight": -1}}}},
            "boundary_weight must be a number",
        ),
        ({"folds": [0, 5]}, "there is no fold 5"),
        ({"configurations": ["3d_lowres"]}, "has no configuration 3d_lowres: it has 2d"),
        (
            {"configurations": ["3d_lowres", "3d_cascade_fullres"], "folds": [0, 1]},
            "learns from the predictions of all 5 folds of .* by 3d_lowres, but the benchmark has only 0, 1: list all",
        ),
        ({"merged": {"x": ["liver", "kidney"]}}, "x has kidney, which is no class"),
        ({"merged": {"liver": ["liver"]}}, "liver is a class of the dataset already"),
        ({"test_sets": {"t": {"images": "i", "labels": "l"}}}, "test set t has no folder /data/i"),
    ],
)
def test_what_is_not_there(dataset: Dataset, changes, words):
    with pytest.raises(UserError, match=words):
        checks.check_environment(spec(**changes))


@pytest.mark.parametrize(
    ("plans", "words"),
    [
        (["otherPlans"], "otherPlans.json: say with 'planner:' or 'from:'"),
        ([{"name": "x", "from": "y", "batch_size": 2}], "made from y, which is not there"),
    ],
)
def test_plans_that_nobody_makes(dataset: Dataset, plans, words):
    with pytest.raises(UserError, match=words):
        checks.check_environment(parse(content(plans=plans), "benchmark.yaml", Path()))


def test_folders_not_set(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        checks.check_environment(spec())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics": ["Dise"]}, "there is no metric Dise: there are Dice"),
        ({"metrics": ["NSD_2"]}, "named like NSD_2mm"),
        ({"metrics": ["CHAOS_score"]}, "needs another preset than papers"),
        ({"metrics": ["Dice_global", "Dice"]}, "case by case, and Dice_global is of all cases together"),
        ({"preset": "paper"}, "unknown preset 'paper'"),
        ({"published": [{"arm": "c"}]}, "published has the arm c; there are stock, other"),
    ],
)
def test_metrics(changes, words):
    with pytest.raises(UserError, match=words):
        checks.check_metrics(spec(**changes))
    checks.check_metrics(spec(metrics=["CHAOS_score", "NSD_1.5mm"], preset="chaos"))


def test_names_are_filled_in(dataset: Dataset):
    assert checks.check_environment(spec()).datasets[0].name == dataset.name


def test_results_of_something_else(writable_dataset: Dataset, tmp_path):
    from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data, prepare

    space = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS])
    assert prepare(space, space.spec.datasets[0]) == 0
    cell = cells_of(space.spec)[0]
    found = Fingerprint(**fingerprint_of_data(space, cell), device="cpu")
    Record(cell, "finished", None, Usage(1, 1, 1, 0, 1, 1), found, 2, 2, "", "").write(space.root)
    (cell.folder(space.root) / METRICS).write_text("")
    assert list(checks.check_results(space)) == []

    others = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS], metrics=["Dice"])
    assert [record.cell for record in checks.check_results(others)] == [cell]  # to be scored again

    tested = {"t": {"images": str(tmp_path), "labels": str(tmp_path)}}
    others = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS], test_sets=tested)
    assert [record.cell for record in checks.check_results(others)] == [cell]

    plans = writable_dataset.preprocessed / f"{PLANS}.json"
    before = plans.read_text()
    plans.write_text(before.replace('"batch_size": 2', '"batch_size": 3'))
    with pytest.raises(UserError, match="has a result of another plans"):
        list(checks.check_results(space))
    plans.write_text(json.dumps(json.loads(before), indent=4))  # the same, written otherwise
    assert list(checks.check_results(space)) == []
    data = next((writable_dataset.preprocessed / "nnUNetPlans_2d").glob("*.pkl"))
    data.write_bytes(data.read_bytes() + b"x")
    with pytest.raises(UserError, match="has a result of another preprocessed"):
        list(checks.check_results(space))


def test_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=5e9))
    checks.check_space(tmp_path / "not" / "yet", 4e9)
    with pytest.raises(UserError, match=r"has 5\.0 GB left, and the cells to do need about 6\.0 GB"):
        checks.check_space(tmp_path / "not" / "yet", 6e9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--partition", "long"], "--partition is of a cluster"),
        (["--jobs", "3"], "--jobs is of a cluster"),
        (["--executor", "slurm", "--gpus", "0"], "--gpus is of a local run"),
        (["--executor", "lsf"], "local or slurm, not lsf"),
        (["--until", "validate"], "prepare or train, not validate"),
        (["--time-epoch"], "goes with --dry-run"),
    ],
)
def test_options_that_do_not_fit(tmp_path, arguments, words):
    result = CliRunner().invoke(app, ["benchmark", "run", str(write(tmp_path)), *arguments])
    assert isinstance(result.exception, UserError) and words in str(result.exception)


def test_the_matrix_leaves_open_what_an_arm_does_not_train(dataset: Dataset, tmp_path):
    arms = {"all": "nnUNetTrainer", "few": {"trainer": "nnUNetTrainerRefinedGAN", "folds": [0]}}
    file = write(tmp_path, plans=[PLANS], arms=arms, folds=[0, 1])
    result = CliRunner().invoke(app, ["benchmark", "run", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    lengths = {row[0]: len(row) for row in rows if row and row[0] in arms}
    assert lengths["all"] == lengths["few"] + 1


def test_dry_run_writes_nothing(dataset: Dataset, tmp_path):
    file = write(tmp_path, plans=[PLANS], epochs=5)
    result = CliRunner().invoke(app, ["benchmark", "run", str(file), "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "To do: 2 of 2 cells" in result.output and "not known for stock, other" in result.output
    assert not (tmp_path / "benchmark").exists()
