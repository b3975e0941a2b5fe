import importlib.util
import json
import signal
import sys
from dataclasses import replace

import pytest
from filelock import FileLock

from nnunet_ext.benchmark import driver
from nnunet_ext.benchmark.driver import Options
from nnunet_ext.benchmark.graph import Graph
from nnunet_ext.benchmark.matrix import cell_key
from nnunet_ext.benchmark.records import RECORD, AttemptFailure, attempt_path, read_attempts, read_records
from nnunet_ext.benchmark.spec_file import load, parse
from nnunet_ext.benchmark.workspace import Run, Workspace
from nnunet_ext.core.errors import UserError
from tests.benchmark.running import all_cells, content, epochs_of, space_of, start, wait_for, write

has_engine = importlib.util.find_spec("snakemake") is not None
needs_engine = pytest.mark.skipif(not has_engine, reason="the extra benchmark is not installed")
DUMMY = Options(cores=2, retries=1, pretended=0.05)


def run(file, work, options=DUMMY):
    return driver.run(driver.plan(load(file), work, options), options)


@needs_engine
def test_failures_are_told_and_only_what_is_new_runs(tmp_path):
    arms = {"stock": "nnUNetTrainer", "bad_nan": "nnUNetTrainerMLL", "bad_memory": "nnUNetTrainerSDNet"}
    file, work = write(tmp_path, arms=arms, epochs=2), tmp_path / "work"
    outcome = run(file, work)
    assert {state.cell.arm: state.stage for state in outcome.states} == {
        "stock": "finished", "bad_nan": "failed", "bad_memory": "failed",
    }  # fmt: skip
    records = {record.cell.arm: record for record in read_records(work)}
    assert records["bad_nan"].failure.kind == "NaN" and records["bad_nan"].usage.attempts == 1  # hopeless
    assert records["bad_memory"].failure.kind == "out of memory" and records["bad_memory"].usage.attempts == 2
    assert records["bad_memory"].failure.message == "MemoryError: no room"
    assert records["stock"].usage.epochs == 2 and records["stock"].failure is None

    write(tmp_path, arms={"stock": "nnUNetTrainer", "fine": "nnUNetTrainerMLL"}, epochs=2)
    before = (records["stock"].cell.folder(work) / RECORD).stat().st_mtime_ns
    outcome = run(file, work)
    assert [state.stage for state in outcome.states] == ["finished", "finished"]
    assert (records["stock"].cell.folder(work) / RECORD).stat().st_mtime_ns == before
    assert run(file, work).log is None  # nothing to do, no engine

    # What is added needs plans that hold its options; what is taken away needs no preparation.
    prepared = Workspace.open(work).prepared("90")
    earlier = prepared.stat().st_mtime_ns
    adapted = {"stock": "nnUNetTrainer", "new": {"trainer": "nnUNetTrainerMLL", "options": {"boundary_weight": 0.5}}}
    write(tmp_path, arms=adapted, epochs=2)
    assert [state.stage for state in run(file, work).states] == ["finished", "finished"]
    made = json.loads(prepared.read_text())["for"]
    assert prepared.stat().st_mtime_ns > earlier and [name for name in made if name.startswith("nnUNetPlans_new_")]
    assert (records["stock"].cell.folder(work) / RECORD).stat().st_mtime_ns == before
    earlier = prepared.stat().st_mtime_ns
    write(tmp_path, arms={"stock": "nnUNetTrainer", "third": "nnUNetTrainerMLL"}, epochs=2)
    run(file, work)
    assert prepared.stat().st_mtime_ns == earlier


@needs_engine
def test_cells_go_in_their_order(tmp_path):
    arms = {"second": "nnUNetTrainer", "first": "nnUNetTrainerMLL"}
    file, work = write(tmp_path, arms=arms, folds=[1, 0], epochs=1), tmp_path / "work"
    run(file, work, replace(DUMMY, cores=1))
    started = {read_attempts(cell.folder(work))[1].started: (cell.fold, cell.arm) for cell in all_cells(work)}
    # Arm by arm within a fold, so that what is there after a stop is a fair comparison.
    assert [started[time] for time in sorted(started)] == [(1, "second"), (1, "first"), (0, "second"), (0, "first")]


@needs_engine
def test_stopped_and_killed_runs_go_on(tmp_path):
    file, work, log = write(tmp_path, epochs=12, save_every=1000), tmp_path / "work", tmp_path / "log"
    arguments = ("run", file, "--work", work, "--dummy", 0.25, "--cores", 2)
    first = start(log, *arguments)
    wait_for((work / "run.json").is_file)
    cells = all_cells(work)
    wait_for(lambda: all(len(epochs_of(work, cell)) >= 2 for cell in cells))
    refused = start(tmp_path / "refused", *arguments)
    assert refused.wait(600) == 1
    assert f"Another run works in {work}" in (tmp_path / "refused").read_text()
    first.send_signal(signal.SIGTERM)
    assert first.wait(600) == 130
    assert "the same command goes on from here" in log.read_text()
    assert {read_attempts(cell.folder(work))[1].failure.kind for cell in cells} == {"stopped"}

    second = start(log, *arguments)
    wait_for(lambda: all(len(read_attempts(cell.folder(work))) == 2 for cell in cells))
    second.send_signal(signal.SIGKILL)  # its jobs go on
    second.wait()
    third = start(log, *arguments)
    assert third.wait(600) == 0, log.read_text()
    for cell in cells:
        assert epochs_of(work, cell) == list(range(12))
        assert len(read_attempts(cell.folder(work))) == 2  # the third run took over what the second had begun


def test_without_the_engine(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"Python 3\.11|pip install '\.\[benchmark\]'"):
        driver.require_engine()


def test_two_runs_in_one_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "require_engine", lambda executor: None)
    file = write(tmp_path)
    with FileLock(tmp_path / ".driver.lock"), pytest.raises(UserError, match="Another run works in"):
        run(file, tmp_path)


def test_work_folder_of_another_benchmark(tmp_path):
    space = driver.plan(load(write(tmp_path, epochs=2)), tmp_path, DUMMY)
    space.save()
    all_cells(tmp_path)[1].folder(tmp_path).mkdir(parents=True)
    with pytest.raises(UserError, match="has cells of arm other with trainer nnUNetTrainerMLL_2epochs"):
        driver.plan(load(write(tmp_path, epochs=3)), tmp_path, DUMMY)
    plans = [{"name": "small", "from": "nnUNetPlans", "batch_size": 2}]
    driver.plan(load(write(tmp_path, epochs=2, plans=plans)), tmp_path, DUMMY).save()
    plans[0]["batch_size"] = 3
    with pytest.raises(UserError, match="was made with other plans small"):
        driver.plan(load(write(tmp_path, epochs=2, plans=plans)), tmp_path, DUMMY)


def test_more_memory_only_where_memory_was_short(tmp_path):
    space = space_of(tmp_path, "Dataset090_X", Run(executor="slurm"))
    graph = Graph(space)
    key, cell = next(iter(graph.cells.items()))
    assert graph.memory_mb(key) == 512
    from nnunet_ext.benchmark.records import Attempt

    for number, (failure, expected) in enumerate(
        [
            (AttemptFailure("other", "odd"), 512),
            (AttemptFailure("out of memory", "CUDA out of memory"), 512),
            (AttemptFailure("out of memory", "killed by signal 9"), 1024),
            (AttemptFailure("out of memory", "killed by signal 9"), 2048),
            (AttemptFailure("out of memory", "killed by signal 9"), 2048),
        ],
        1,
    ):
        Attempt("2026-01-01T00:00:00+00:00", exit_code=1, failure=failure).write(
            attempt_path(cell.folder(tmp_path), number)
        )
        assert graph.memory_mb(key) == expected


def test_cluster_jobs_follow_those_that_run(tmp_path):
    space = space_of(tmp_path, "Dataset090_X", Run(executor="slurm"))
    key, other = (cell_key(cell) for cell in all_cells(tmp_path))
    graph = Graph(replace(space, run=Run(executor="slurm", after={key: ["7", "8"]})))
    assert graph.scheduler_options(key).endswith("--dependency=afterany:7:8")
    assert "dependency" not in graph.scheduler_options(other)
    assert graph.scheduler_options(other) == "--signal=TERM@120"
    assert Graph(replace(space, run=Run())).scheduler_options(key) == ""


def test_what_cells_wait_for(tmp_path):
    """The second stage of nnU-Net's cascade for all folds of the first one, an ensemble for its members."""
    arms = {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL", "both": {"ensemble": ["stock", "other"]}}
    configurations = ["3d_lowres", "3d_cascade_fullres"]
    space = space_of(
        tmp_path, "Dataset090_X", Run(pretended=0.01), configurations=configurations, folds=[0, 1], arms=arms
    )
    graph = Graph(space)
    start = "cells/Dataset090_X/3d_lowres/nnUNetPlans/stock"
    second = "Dataset090_X/3d_cascade_fullres/nnUNetPlans"
    lowres = [f"{start}/fold_{fold}/seed_0/trained.json" for fold in (0, 1)]
    assert graph.before(f"{second}/stock/fold_1/seed_0") == lowres
    assert graph.before(f"{second}/both/fold_1/seed_0") == [
        f"cells/{second}/{arm}/fold_1/seed_0/trained.json" for arm in ("stock", "other")
    ]
    assert graph.before(start.removeprefix("cells/") + "/fold_0/seed_0") == []


def test_quick_to_import():
    import subprocess

    modules = "nnunet_ext.benchmark.driver, nnunet_ext.cli.benchmark"
    code = f"import sys, {modules}; print({{'torch', 'snakemake'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"


def test_before_conversion_there_are_no_cells(tmp_path):
    """A work folder whose datasets have no names yet, as a run leaves it that has stopped in their conversion."""
    spec = parse(content(datasets=[90, 91]), "benchmark.yaml", tmp_path)
    space = Workspace(tmp_path, spec, Run())
    space.save()
    assert Graph(space).cells == {}
    assert Graph(space).prepared() == ["datasets/90/prepared.json", "datasets/91/prepared.json"]
    space.check_same_runs(replace(spec, epochs=3))
