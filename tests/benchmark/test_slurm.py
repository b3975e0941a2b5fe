"""A small matrix through a real SLURM: a job is cancelled, the driver is killed, and the matrix completes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.records import read_attempts, read_records
from nnunet_ext.benchmark.slurm import clear_queue, has_accounting, job_prefix
from nnunet_ext.benchmark.workspace import Workspace

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "slurm.sh"
EPOCHS = 16


def reason_to_skip() -> str:
    if sys.version_info < (3, 11) or not _has("snakemake_executor_plugin_slurm"):
        return "the extra benchmark is not installed"
    if shutil.which("sinfo") is None:
        return "SLURM is not installed: apt-get install slurm-wlm munge"
    return ""


def _has(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is not None


@pytest.fixture(scope="module")
def cluster():
    """A SLURM that runs already, or one of our own for the time of the tests."""
    if reason := reason_to_skip():
        pytest.skip(reason)
    if subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30, check=False).stdout.strip():
        yield
        return
    started = subprocess.run([SCRIPT, "start"], capture_output=True, encoding="utf-8", timeout=60, check=False)
    if started.returncode:
        pytest.skip(f"no SLURM could be started here: {started.stderr.strip()}")
    yield
    subprocess.run([SCRIPT, "stop"], check=True)


def start(file: Path, work: Path) -> subprocess.Popen:
    command = [Path(sys.executable).parent / "nnunet-ext", "benchmark", "run", file, "--work", work, "--dummy", "0.5"]
    command += ["--executor", "slurm", "--poll", "1"]
    with (work.parent / "driver.log").open("a") as log:
        return subprocess.Popen([*map(str, command)], stdout=log, stderr=log)


def wait_for(what, seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def jobs(work: Path, state: str) -> dict[str, str]:
    """Ids of the jobs of a work folder by their comment."""
    listed = subprocess.run(
        ["squeue", "-h", "-t", state, "-o", "%i|%j|%k"], capture_output=True, encoding="utf-8", check=True
    )
    rows = (line.split("|", 2) for line in listed.stdout.splitlines())
    return {comment.strip(): number for number, name, comment in rows if name.startswith(job_prefix(work))}


def test_cancelled_job_and_killed_driver(cluster, tmp_path):
    file, work = tmp_path / "benchmark.yaml", tmp_path / "work"
    content = {
        "name": "cluster",
        "datasets": [{"id": 90}],
        "configurations": ["2d"],
        "arms": {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL"},
        "epochs": EPOCHS,
        "folds": [0],
        "save_every": 1000,  # what is saved is saved because a job was asked to stop
        "resources": {"cpus": 1, "memory_gb": 0.25, "gpus": 0, "hours": 1},
    }
    file.write_text(json.dumps(content))
    work.mkdir()
    driver = start(file, work)
    wait_for((work / "run.json").is_file)
    space = Workspace.open(work)
    first, second = cells_of(space.spec)

    def has_trained(cell, epochs=2):
        last = [a.last_epoch for a in read_attempts(cell.folder(work)).values() if a.last_epoch is not None]
        return bool(last) and max(last) + 1 >= epochs

    wait_for(lambda: has_trained(first) and has_trained(second))
    own = {key: number for key, number in jobs(work, "RUNNING").items() if first.arm in key.split("_")}
    subprocess.run(["scancel", *own.values()], check=True)
    wait_for(lambda: read_attempts(first.folder(work))[1].exit_code is not None)
    driver.send_signal(signal.SIGKILL)
    driver.wait()

    again = start(file, work)
    assert again.wait(timeout=600) == 0, (tmp_path / "driver.log").read_text()

    assert {record.cell for record in read_records(work)} == {first, second}
    for cell in (first, second):
        attempts = read_attempts(cell.folder(work)).values()
        epochs = [e for a in attempts if a.first_epoch is not None for e in range(a.first_epoch, a.last_epoch + 1)]
        assert epochs == list(range(EPOCHS))  # none twice, none left out
    assert read_attempts(first.folder(work))[1].failure.kind == "stopped"
    assert len(read_attempts(second.folder(work))) == 1  # the killed driver's job went on, its successor took it over
    assert jobs(work, "RUNNING,PENDING") == {}


def test_waiting_jobs_are_cancelled_and_running_ones_are_known(cluster, tmp_path):
    name = f"{job_prefix(tmp_path)}_x"
    key = "Dataset090_X/2d/nnUNetPlans/stock/fold_0/seed_0"
    common = ["sbatch", "--parsable", "-J", name, "-o", os.devnull, "--mem=100"]

    def submit(*options):
        made = subprocess.run([*common, *options, "--wrap=sleep 60"], capture_output=True, encoding="utf-8", check=True)
        return made.stdout.strip()

    running = submit("--comment", f"rule_train_wildcards_{key.replace('/', '_')}")
    wait_for(lambda: jobs(tmp_path, "RUNNING"))
    submit("--begin=now+1hour", "--comment", "rule_train_wildcards_other")
    try:
        assert clear_queue(tmp_path, [key]) == {key: [running]}
        wait_for(lambda: not jobs(tmp_path, "PENDING"))
        if "nnunet_ext" in Path("/etc/slurm/slurm.conf").read_text():
            assert not has_accounting()
    finally:
        subprocess.run(["scancel", running], check=True)
