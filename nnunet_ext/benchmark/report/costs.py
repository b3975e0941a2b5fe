"""What arms cost, and what failed or is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunet_ext.benchmark.report.collect import Results
from nnunet_ext.benchmark.report.specification import Setting

_HOUR = 3600.0


@dataclass(frozen=True)
class Cost:
    """Cost of an arm on one device in one setting.

    Attributes:
        setting: Where.
        arm: Arm.
        device: ``cpu`` or the name of the GPU.
        finished: Finished cells.
        attempts: Attempts of finished and failed cells.
        wall_hours: Hours of finished and failed cells, all attempts.
        cpu_hours: CPU hours.
        gpu_hours: Hours a device was held; 0 on a CPU.
        lost_hours: Hours of cells that failed for good, part of ``wall_hours``.
        seconds_per_epoch: Mean over finished cells.
        ratio_epoch: To the reference arm, mean over the cells of the same fold and seed that both have finished on the
            same device; NaN without any.
        peak_allocated_bytes: Highest peak of the memory of tensors on the device, ``None`` on a CPU.
        peak_reserved_bytes: Highest peak of the memory that PyTorch held on the device.
        peak_rss_bytes: Highest peak of the resident memory.
        parameters: Trained parameters, the most of any cell.
        inference_seconds: Mean seconds of prediction a case.
        ratio_inference: As ``ratio_epoch``.
    """

    setting: Setting
    arm: str
    device: str
    finished: int
    attempts: int
    wall_hours: float
    cpu_hours: float
    gpu_hours: float
    lost_hours: float
    seconds_per_epoch: float
    ratio_epoch: float
    peak_allocated_bytes: int | None
    peak_reserved_bytes: int | None
    peak_rss_bytes: int | None
    parameters: int | None
    inference_seconds: float
    ratio_inference: float


@dataclass(frozen=True)
class Trouble:
    """A cell that failed for good or is missing, or a failed attempt of a finished cell.

    Attributes:
        cell: Where, for readers.
        outcome: ``failed``, ``missing``, or ``finished`` where a later attempt succeeded.
        attempts: Number of attempts so far.
        kind: Kind of the failure.
        message: The original message.
    """

    cell: str
    outcome: str
    attempts: int
    kind: str
    message: str


def costs(results: Results) -> list[Cost]:
    """Costs of all arms with a record, by setting, in the order of the specification."""
    specification = results.specification
    tried = results.cells[results.cells["status"] != "missing"]
    found = []
    for setting in specification.settings:
        here = tried[
            (tried["dataset"] == setting.dataset)
            & (tried["configuration"] == setting.configuration)
            & (tried["plans"] == setting.plans)
        ]
        reference = here[here["arm"] == specification.reference]
        for arm in specification.arm_names:
            own = here[here["arm"] == arm]
            for device, cells in own.groupby("fingerprint_device", sort=True):
                found.append(_cost(setting, arm, str(device), cells, reference))
    return found


def _cost(setting: Setting, arm: str, device: str, cells: pd.DataFrame, reference: pd.DataFrame) -> Cost:
    finished = cells[cells["status"] == "finished"]
    failed = cells[cells["status"] == "failed"]
    return Cost(
        setting,
        arm,
        device,
        finished=len(finished),
        attempts=int(cells["attempts"].sum()),
        wall_hours=float(cells["wall_seconds"].sum()) / _HOUR,
        cpu_hours=float(cells["cpu_seconds"].sum()) / _HOUR,
        gpu_hours=float(cells["gpu_seconds"].sum()) / _HOUR,
        lost_hours=float(failed["wall_seconds"].sum()) / _HOUR,
        seconds_per_epoch=float(finished["seconds_per_epoch"].mean()),
        ratio_epoch=_ratio(finished, reference, "seconds_per_epoch"),
        peak_allocated_bytes=_highest(cells["peak_allocated_bytes"]),
        peak_reserved_bytes=_highest(cells["peak_reserved_bytes"]),
        peak_rss_bytes=_highest(cells["peak_rss_bytes"]),
        parameters=_highest(cells["parameters"]),
        inference_seconds=float(finished["inference_seconds_per_case"].mean()),
        ratio_inference=_ratio(finished, reference, "inference_seconds_per_case"),
    )


def _highest(values: pd.Series) -> int | None:
    known = values.dropna()
    return int(known.max()) if len(known) else None


def _ratio(cells: pd.DataFrame, reference: pd.DataFrame, name: str) -> float:
    keys = ["fold", "seed", "fingerprint_device"]
    own = cells.set_index(keys)[name]
    other = reference[reference["status"] == "finished"].set_index(keys)[name]
    ratios = (own / other).dropna()
    return float(ratios.mean()) if len(ratios) else float("nan")


def troubles(results: Results) -> list[Trouble]:
    """Failed cells first, then missing ones, then failed attempts of finished cells."""
    cells = results.cells
    several = [name for name in ("dataset", "configuration", "plans") if cells[name].nunique() > 1]

    def place(row: pd.Series) -> str:
        parts = [*(str(row[name]) for name in several), str(row["arm"]), f"fold {row['fold']}", f"seed {row['seed']}"]
        return " · ".join(parts)

    found = []
    for status in ("failed", "missing"):
        for _, row in cells[cells["status"] == status].iterrows():
            kind, message = row["failure_kind"], row["failure_message"]
            if status == "missing":
                last = _last_failure(results, row)
                kind, message = last if last else ("", "")
            found.append(Trouble(place(row), status, int(row["attempts"]), kind, message))
    finished = cells[cells["status"] == "finished"]
    for _, row in finished.iterrows():
        own = _attempts(results, row)
        for _, attempt in own[own["failure_kind"] != ""].iterrows():
            where = f"{place(row)}, attempt {attempt['attempt']}"
            kind, message = attempt["failure_kind"], attempt["failure_message"]
            found.append(Trouble(where, "finished", int(row["attempts"]), kind, message))
    return found


def _attempts(results: Results, cell: pd.Series) -> pd.DataFrame:
    attempts = results.attempts
    chosen = np.ones(len(attempts), dtype=bool)
    for name in ("dataset", "configuration", "plans", "arm", "fold", "seed"):
        chosen &= (attempts[name] == cell[name]).to_numpy()
    return attempts[chosen]


def _last_failure(results: Results, cell: pd.Series) -> tuple[str, str] | None:
    own = _attempts(results, cell)
    own = own[own["failure_kind"] != ""]
    return None if own.empty else (own["failure_kind"].iloc[-1], own["failure_message"].iloc[-1])


def devices_differ(found: Sequence[Cost]) -> bool:
    """Whether costs are of several devices, so that tables must name them."""
    return len({cost.device for cost in found}) > 1
