"""Real trainings of the engine: one that is stopped and goes on gives what an undisturbed one gives."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.benchmark.jobs.child import Stop
from nnunet_ext.benchmark.matrix import cell_key, cells_of
from nnunet_ext.benchmark.records import CURVES, METRICS, RECORD, Record, read_attempts
from nnunet_ext.benchmark.workspace import TRAINED, Run
from tests.benchmark.running import epochs_of, space_of, wait_for
from tests.conftest import PLANS, Dataset

EPOCHS = 4


def job(space, step, key, *options):
    command = [sys.executable, "-m", "nnunet_ext.benchmark.jobs", step, key, "--work", str(space.root), *options]
    with (space.root / "jobs.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def without_seconds(path):
    return [row[:-1] for row in csv.reader(path.open())]


@pytest.mark.skipif(
    not os.environ.get("NNUNET_EXT_SLOW_TESTS"), reason="takes minutes: set NNUNET_EXT_SLOW_TESTS=1 to run it"
)
def test_stopped_training_repeats_what_would_have_been(dataset: Dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA")  # as the resources say: with one core, none
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    case, files = next(iter(json.loads((dataset.raw / "dataset.json").read_text())["dataset"].items()))
    shutil.copy(dataset.raw / files["images"][0], tmp_path / "images" / f"{case}_0000.nii.gz")
    shutil.copy(dataset.raw / files["label"], tmp_path / "labels" / f"{case}.nii.gz")
    test_sets = {"other": {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}}
    spaces = {}
    for name in ("undisturbed", "stopped"):
        spaces[name] = space_of(
            tmp_path / name,
            dataset.name,
            Run(gpus=(), device="cpu"),
            plans=[PLANS],
            arms={"stock": "nnUNetTrainer"},
            epochs=EPOCHS,
            iterations=2,
            save_every=1000,
            metrics=["Dice", "HD95"],
            merged={"both": ["liver", "spleen"]},
            test_sets=test_sets if name == "stopped" else {},
        )
    (cell,) = cells_of(spaces["stopped"].spec)
    key = cell_key(cell)
    assert job(spaces["stopped"], "prepare", "90").wait(600) == 0  # writes the split, for both
    undisturbed = job(spaces["undisturbed"], "train", key)
    folder = cell.folder(spaces["stopped"].root)
    first = job(spaces["stopped"], "train", key)
    wait_for(lambda: epochs_of(spaces["stopped"].root, cell))
    first.send_signal(signal.SIGUSR1)
    assert first.wait(600) == 75
    (attempt,) = read_attempts(folder).values()
    assert attempt.failure.kind == "stopped" and attempt.exit_code == 75
    assert attempt.first_epoch == 0 and attempt.last_epoch < EPOCHS - 1
    assert not (folder / TRAINED).exists()
    assert job(spaces["stopped"], "train", key).wait(600) == 0
    assert undisturbed.wait(600) == 0
    assert epochs_of(spaces["stopped"].root, cell) == list(range(EPOCHS))
    refused = job(spaces["stopped"], "evaluate", key)
    assert refused.wait(600) == 1  # the test set is not predicted
    assert job(spaces["stopped"], "predict", key, "--test-set", "other").wait(600) == 0
    for space in spaces.values():
        assert job(space, "evaluate", key).wait(600) == 0

    other = cell.folder(spaces["undisturbed"].root)
    assert (folder / METRICS).read_bytes() == (other / METRICS).read_bytes()
    assert without_seconds(folder / CURVES) == without_seconds(other / CURVES)
    rows = list(csv.DictReader((folder / METRICS).open()))
    assert {row["label"] for row in rows} == {"liver", "spleen", "both"}
    assert {row["metric"] for row in rows} == {"Dice", "HD95"}
    tested = list(csv.DictReader((folder / "test_other.csv").open()))
    assert {row["case"] for row in tested} == {case}
    records = [Record.read(one / RECORD) for one in (folder, other)]
    assert records[0].fingerprint == records[1].fingerprint
    usage = records[0].usage
    assert (usage.attempts, usage.epochs, records[1].usage.attempts) == (
        3,
        EPOCHS,
        1,
    )  # one of them a refused evaluation
    assert usage.wall_seconds == sum(a.wall_seconds for a in read_attempts(folder).values())
    assert usage.parameters > 0 and usage.peak_rss_bytes > 1e8 and usage.peak_allocated_bytes is None
    assert (records[0].iterations_per_epoch, records[0].batch_size) == (2, 2)

    # A successor of a job whose end nobody saw, which Snakemake has deleted the output of, takes it over at once.
    before = json.loads((folder / TRAINED).read_text())
    (folder / TRAINED).unlink()
    assert job(spaces["stopped"], "train", key).wait(600) == 0
    assert json.loads((folder / TRAINED).read_text()) == before
    assert len(read_attempts(folder)) == 3


def test_what_a_child_leaves_behind_is_ended(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    ended = Stop().run([sys.executable, "-c", code], tmp_path / "log", os.environ)
    assert ended.exit_code == 0 and ended.cpu_seconds > 0 and ended.peak_rss_bytes > 1e6
    orphan = int((tmp_path / "log").read_text())

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{orphan}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    wait_for(is_gone, 5)


def test_stop_with_workers_that_draw_batches(dataset: Dataset, tmp_path):
    """A scheduler asks the workers to end as well; that is no failure, and nothing waits for them."""
    space = space_of(
        tmp_path, dataset.name, Run(gpus=(), device="cpu"), plans=[PLANS], arms={"stock": "nnUNetTrainer"},
        epochs=200, iterations=2,
    )  # fmt: skip
    (cell,) = cells_of(space.spec)
    assert job(space, "prepare", "90").wait(600) == 0
    training = job(space, "train", cell_key(cell))
    wait_for(lambda: epochs_of(space.root, cell))
    (child,) = subprocess.run(
        ["pgrep", "-P", str(training.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.killpg(int(child), signal.SIGTERM)  # the training and its workers, not the job
    assert training.wait(600) == 75
    (attempt,) = read_attempts(cell.folder(space.root)).values()
    assert attempt.failure.kind == "stopped" and attempt.last_epoch < 199
