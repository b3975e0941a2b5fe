"""Costs and troubles of a benchmark, by hand."""

import math
from dataclasses import replace

import pytest

from nnunet_ext.benchmark.records import Attempt, AttemptFailure, Cell, attempt_path
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.costs import costs, devices_differ, troubles
from tests.benchmark.report.synthetic import (
    CONFIGURATION,
    FAILED,
    MISSING,
    PLANS,
    write_cell,
    write_specification,
    write_work,
)

ROWS = [("case", "liver", "Dice", 0.9)]
STOCK = Cell("Dataset091_X", CONFIGURATION, PLANS, "stock", "nnUNetTrainer", 0, 0)
MLL = replace(STOCK, arm="MLL", trainer="nnUNetTrainerMLL")


def test_costs_are_sums_means_and_peaks(tmp_path):
    write_specification(tmp_path)
    write_cell(tmp_path, STOCK, ROWS, epochs=10, seconds=30)
    write_cell(tmp_path, replace(STOCK, fold=1), ROWS, epochs=10, seconds=50)
    write_cell(tmp_path, MLL, ROWS, epochs=10, seconds=60)
    write_cell(tmp_path, replace(MLL, fold=1), ROWS, "failed", epochs=10, seconds=34)
    stock, mll = costs(collect(tmp_path))
    assert (stock.finished, stock.attempts, mll.finished, mll.attempts) == (2, 2, 1, 3)
    assert stock.seconds_per_epoch == 40 and mll.seconds_per_epoch == 60
    assert stock.ratio_epoch == 1 and mll.ratio_epoch == 2  # over fold 0, which both have finished
    assert stock.wall_hours == pytest.approx((360 + 560) / 3600)
    assert mll.wall_hours == pytest.approx((660 + 400) / 3600) and mll.lost_hours == pytest.approx(400 / 3600)
    assert mll.cpu_hours == pytest.approx(2 * (600 + 340) / 3600)
    assert (stock.peak_allocated_bytes, stock.peak_rss_bytes, stock.parameters) == (None, 3 * 2**30, 31_000_000)


def test_no_ratio_across_devices(tmp_path):
    write_specification(tmp_path)
    write_cell(tmp_path, STOCK, ROWS, seconds=30, changes={"device": "NVIDIA A100"})
    write_cell(tmp_path, MLL, ROWS, seconds=60)
    stock, mll = costs(collect(tmp_path))
    assert (stock.device, mll.device) == ("NVIDIA A100", "cpu")
    assert math.isnan(mll.ratio_epoch) and stock.ratio_epoch == 1
    assert devices_differ([stock, mll]) and not devices_differ([stock])


def test_troubles_name_cell_kind_message_and_attempts(tmp_path):
    name = "Dataset091_X"
    write_work(tmp_path, {"stock": 0, "MLL": 0}, without={(name, "MLL", 0, 0): FAILED, (name, "MLL", 1, 0): MISSING})
    lost = Attempt("2026-11-26T10:00:00+00:00", failure=AttemptFailure("lost node", "node 3 went away"))
    lost.write(attempt_path(replace(STOCK, fold=1, configuration=CONFIGURATION).folder(tmp_path), 2))
    lost.write(attempt_path(replace(MLL, fold=1).folder(tmp_path), 1))
    found = [(t.cell, t.outcome, t.attempts, t.kind, t.message) for t in troubles(collect(tmp_path))]
    assert found == [
        ("MLL · fold 0 · seed 0", "failed", 2, "out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB"),
        ("MLL · fold 1 · seed 0", "missing", 1, "lost node", "node 3 went away"),
        ("stock · fold 1 · seed 0, attempt 2", "finished", 1, "lost node", "node 3 went away"),
    ]


def test_nothing_tried_costs_nothing(tmp_path):
    write_specification(tmp_path)
    results = collect(tmp_path)
    assert costs(results) == []
    assert [t.outcome for t in troubles(results)] == ["missing"] * 4
