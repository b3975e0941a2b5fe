"""Time and disk that a benchmark still takes, from cells that were trained or from a few timed iterations."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.matrix import arm_of
from nnunet_ext.benchmark.records import Cell, Record
from nnunet_ext.benchmark.state import State
from nnunet_ext.benchmark.workspace import Workspace, read_state
from nnunet_ext.core.errors import UserError

TIMINGS = "timings.json"
_CHECKPOINTS = 3  # final, best, and for a while latest


@dataclass(frozen=True)
class Estimate:
    """What is left to do.

    Attributes:
        hours: of training, one job after the other; ``None`` where nothing is known of an arm.
        disk_bytes: of checkpoints and predictions.
        unknown: arms of which nothing is known.
    """

    hours: float | None
    disk_bytes: float
    unknown: tuple[str, ...]


def timing_key(cell: Cell) -> str:
    """What cells of one timing share."""
    return " ".join((cell.dataset, cell.configuration, cell.plans, cell.arm, cell.trainer))


def estimate(space: Workspace, states: Sequence[State]) -> Estimate:
    """Time and disk of the cells that are not finished."""
    file = space.root / TIMINGS
    timings: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for state in states:
        if state.stage in ("finished", "trained"):
            measured = _measured(space, state.cell)
            if measured is not None:
                timings[timing_key(state.cell)] = measured
    seconds = size = 0.0
    unknown = []
    for state in states:
        if state.stage in ("finished", "trained"):
            continue
        if arm_of(space.spec, state.cell).ensemble:  # takes no training
            continue
        known = timings.get(timing_key(state.cell))
        if known is None:
            unknown.append(state.cell.arm)
            continue
        left = max(0, known["epochs"] - (state.epochs or 0))
        seconds += left * known["seconds_per_epoch"] + known["validation_seconds"]
        size += known["disk_bytes"]
    return Estimate(None if unknown else seconds / 3600, size, tuple(dict.fromkeys(unknown)))


def _measured(space: Workspace, cell: Cell) -> dict[str, Any] | None:
    """What a trained cell took."""
    folder = cell.folder(space.root)
    try:
        state = read_state(folder)
        record = folder / "record.json"
        epochs = arm_of(space.spec, cell).epochs or space.spec.epochs
        if epochs is None:
            epochs = Record.read(record).usage.epochs
    except (OSError, ValueError, UserError):
        return None
    model = Path(state["validation"]).parent
    files = [path for path in model.rglob("*") if path.is_file()] if state["validation"] else []
    return {
        "epochs": epochs,
        "seconds_per_epoch": state["seconds_per_epoch"],
        "validation_seconds": state["inference_seconds_per_case"] * len(state["cases"]),
        "disk_bytes": sum(path.stat().st_size for path in files),
    }


def from_iterations(timed: dict[str, Any]) -> dict[str, Any]:
    """What a cell takes, from a few timed iterations.

    Args:
        timed: ``epochs``, ``iterations`` and ``validation_iterations`` an epoch, ``seconds`` of a training iteration,
            ``validation_seconds`` of one of validation, ``checkpoint_bytes``.
    """
    return {
        "epochs": timed["epochs"],
        "seconds_per_epoch": timed["iterations"] * timed["seconds"]
        + timed["validation_iterations"] * timed["validation_seconds"],
        "validation_seconds": 0.0,
        "disk_bytes": _CHECKPOINTS * timed["checkpoint_bytes"],
    }
