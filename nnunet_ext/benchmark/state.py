"""Where each cell of a benchmark stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from nnunet_ext.benchmark.matrix import arm_of
from nnunet_ext.benchmark.records import RECORD, Cell, Record, read_attempts
from nnunet_ext.benchmark.workspace import TRAINED, Workspace
from nnunet_ext.core.errors import UserError

Stage = Literal["finished", "failed", "trained", "running", "stopped", "waiting"]


@dataclass(frozen=True)
class State:
    """Where a cell stands.

    Attributes:
        cell: the cell.
        stage: ``finished`` has its scores; ``trained`` lacks them; ``stopped`` has begun, and nobody works on it.
        epochs: that are trained, ``None`` before the first.
        of: epochs of the whole training; ``None`` where the trainer decides.
        attempts: number of attempts.
        failure: kind and message of the last failure.
    """

    cell: Cell
    stage: Stage
    epochs: int | None = None
    of: int | None = None
    attempts: int = 0
    failure: str = ""

    @property
    def short(self) -> str:
        """A word for a table."""
        epochs = "" if self.epochs is None else f"{self.epochs}/{self.of}" if self.of else f"{self.epochs} epochs"
        if self.stage in ("running", "stopped") and epochs:
            return epochs if self.stage == "running" else f"{epochs} stopped"
        return "-" if self.stage == "waiting" else self.stage


def state_of(space: Workspace, cell: Cell) -> State:
    """Where a cell stands now."""
    folder = cell.folder(space.root)
    arm = arm_of(space.spec, cell)
    of = None if arm.ensemble else arm.epochs or space.spec.epochs
    if not folder.is_dir():
        return State(cell, "waiting", of=of)
    attempts = read_attempts(folder)
    epochs = max((a.last_epoch + 1 for a in attempts.values() if a.last_epoch is not None), default=None)
    last = attempts[max(attempts)].failure if attempts else None
    failure = "" if last is None else f"{last.kind}: {last.message}"
    stage: Stage = "waiting"
    if (folder / RECORD).is_file():
        stage = Record.read(folder / RECORD).status
    elif _is_worked_on(folder):
        stage = "running"
    elif (folder / TRAINED).is_file():
        stage = "trained"
    elif attempts:
        stage = "stopped"
    return State(cell, stage, epochs, of, len(attempts), failure)


def states_of(space: Workspace, cells: Sequence[Cell]) -> list[State]:
    """Where the cells stand now."""
    return [state_of(space, cell) for cell in cells]


def is_done(space: Workspace, cell: Cell, target: str) -> bool:
    """Whether nothing is left to do of a cell; quick.

    Args:
        space: the work folder.
        cell: the cell.
        target: ``all``, or ``trained`` to leave out scores.
    """
    folder = cell.folder(space.root)
    if target == "trained" and (folder / TRAINED).is_file():
        return True
    file = folder / RECORD
    try:
        return file.is_file() and Record.read(file).status == "finished"
    except UserError:
        return False


def _is_worked_on(folder: Path) -> bool:
    if not (folder / ".lock").is_file():
        return False
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False
