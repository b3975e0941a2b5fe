"""What tests of the engine share: a work folder of a pretended or real matrix, and what its ledgers tell."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.records import Cell, read_attempts
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.benchmark.workspace import Run, Workspace

ONE_CORE = {"cpus": 1, "memory_gb": 0.5, "gpus": 0}
SMALL = {
    "name": "small",
    "datasets": [{"id": 90}],
    "configurations": ["2d"],
    "arms": {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL"},
    "folds": [0],
    "resources": ONE_CORE,
}


def content(**changes: Any) -> dict[str, Any]:
    return SMALL | changes


def write(folder: Path, **changes: Any) -> Path:
    """A benchmark file; JSON is YAML."""
    file = folder / "benchmark.yaml"
    file.write_text(json.dumps(content(**changes)))
    return file


def space_of(work: Path, name: str, run: Run, **changes: Any) -> Workspace:
    """A work folder as a run leaves it to its jobs."""
    spec = parse(content(**changes, datasets=[{"name": name}]), "benchmark.yaml", work)
    space = Workspace(work.absolute(), spec, run)
    space.save()
    return space


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).parent / "nnunet-ext"), "benchmark", *map(str, arguments)]


def start(log: Path, *arguments: object) -> subprocess.Popen:
    with log.open("a") as output:
        return subprocess.Popen(command(*arguments), stdout=output, stderr=output)


def wait_for(what: Callable[[], object], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def epochs_of(work: Path, cell: Cell) -> list[int]:
    """Epochs of all attempts, in the order in which they were trained."""
    attempts = read_attempts(cell.folder(work)).values()
    return [e for a in attempts if a.first_epoch is not None for e in range(a.first_epoch, a.last_epoch + 1)]


def all_cells(work: Path) -> list[Cell]:
    return cells_of(Workspace.open(work).spec)
