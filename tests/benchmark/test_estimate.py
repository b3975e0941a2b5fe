import json

import pytest

from nnunet_ext.benchmark.driver import time_cells
from nnunet_ext.benchmark.estimate import TIMINGS, estimate, from_iterations, timing_key
from nnunet_ext.benchmark.jobs.prepare import prepare
from nnunet_ext.benchmark.jobs.timing import time_iterations
from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.records import CURVES
from nnunet_ext.benchmark.state import State
from nnunet_ext.benchmark.workspace import STATE, Run
from tests.benchmark.running import space_of
from tests.conftest import PLANS, Dataset

TIMED = {
    "epochs": 100, "iterations": 250, "validation_iterations": 50, "seconds": 0.4, "validation_seconds": 0.2,
    "checkpoint_bytes": 1e9,
}  # fmt: skip


def test_of_timed_iterations():
    known = from_iterations(TIMED)
    assert known["seconds_per_epoch"] == pytest.approx(250 * 0.4 + 50 * 0.2)
    assert known["disk_bytes"] == 3e9


def test_sum_over_what_is_left(tmp_path):
    space = space_of(tmp_path, "Dataset090_X", Run(), epochs=100, folds=[0, 1])
    cells = cells_of(space.spec)
    states = [State(cell, "waiting", None, 100) for cell in cells]
    assert estimate(space, states).hours is None and estimate(space, states).unknown == ("stock", "other")
    known = {timing_key(cell): from_iterations(TIMED) for cell in cells}
    (tmp_path / TIMINGS).write_text(json.dumps(known))
    assert estimate(space, states).hours == pytest.approx(4 * 100 * 110 / 3600)
    states[0] = State(cells[0], "stopped", 40, 100)
    assert estimate(space, states).hours == pytest.approx((60 + 3 * 100) * 110 / 3600)
    assert estimate(space, states).disk_bytes == 4 * 3e9


def test_trained_cells_are_what_others_are_estimated_from(tmp_path):
    space = space_of(tmp_path, "Dataset090_X", Run(), epochs=10, folds=[0, 1])
    cells = cells_of(space.spec)
    model = tmp_path / "model"
    model.mkdir()
    (model / "checkpoint_final.pth").write_bytes(b"x" * 1000)
    for cell in cells[:2]:
        cell.folder(tmp_path).mkdir(parents=True)
        (cell.folder(tmp_path) / CURVES).write_text("")
        state = {"seconds_per_epoch": 5.0, "inference_seconds_per_case": 2.0, "cases": ["a", "b"]}
        (cell.folder(tmp_path) / STATE).write_text(json.dumps(state | {"validation": str(model / "validation")}))
    states = [
        State(cell, "trained" if cell.fold == 0 else "waiting", 10 if cell.fold == 0 else None, 10) for cell in cells
    ]
    found = estimate(space, states)
    assert found.hours == pytest.approx(2 * (10 * 5 + 2 * 2) / 3600) and found.disk_bytes == 2000


def test_timing(dataset: Dataset, tmp_path):
    arms = {"stock": "nnUNetTrainer"}
    run = Run(gpus=(), device="cpu")
    space = space_of(tmp_path / "work", dataset.name, run, plans=[PLANS], arms=arms, epochs=7, iterations=10)
    prepare(space, space.spec.datasets[0])
    timed = time_iterations(space, cells_of(space.spec)[0])
    assert (timed["epochs"], timed["iterations"], timed["validation_iterations"]) == (7, 10, 2)
    assert 0 < timed["seconds"] < 30 and 0 < timed["validation_seconds"] < 30 and timed["checkpoint_bytes"] > 1e4


def test_what_cannot_be_timed_is_left_out(tmp_path):
    """An ensemble is not trained, and a second stage waits for the first one."""
    arms = {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL", "both": {"ensemble": ["stock", "other"]}}
    configurations = ["3d_lowres", "3d_cascade_fullres"]
    space = space_of(tmp_path, "Dataset090_X", Run(), arms=arms, configurations=configurations, epochs=10)
    cells = {timing_key(cell): cell for cell in cells_of(space.spec)}
    known = {key: from_iterations(TIMED) for key, cell in cells.items() if cell.configuration == "3d_lowres"}
    del known[timing_key(cells_of(space.spec)[2])]
    (tmp_path / TIMINGS).write_text(json.dumps(known))
    assert list(time_cells(space)) == []
    states = [State(cell, "waiting", None, 10) for cell in cells.values()]
    assert estimate(space, states).unknown == ("stock", "other")
    assert estimate(space, [state for state in states if state.cell.configuration == "3d_lowres"]).hours > 0
