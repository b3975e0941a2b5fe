"""An ensemble of trained cells, by nnU-Net's mean of probabilities or by majority vote."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.jobs.progress import StopRequest
from nnunet_ext.benchmark.jobs.training import build_trainer, initialize
from nnunet_ext.benchmark.matrix import arm_of, members_of
from nnunet_ext.benchmark.records import Cell, read_attempts
from nnunet_ext.benchmark.workspace import Workspace, read_state, write_state
from nnunet_ext.core.environment import require_folder
from nnunet_ext.core.errors import UserError

_VALIDATION = "validation"  # as nnU-Net calls it


def fuse(space: Workspace, cell: Cell, folders: Sequence[Path], output: Path) -> None:
    """Predictions of members as one.

    Args:
        space: the work folder.
        cell: of the ensemble.
        folders: predictions of each member; with probabilities, where their mean is taken.
        output: folder for the label maps.
    """
    from nnunetv2.ensembling.ensemble import ensemble_folders

    from nnunet_ext.views.folders import vote_folders

    dataset = require_folder("nnUNet_preprocessed") / cell.dataset
    shutil.rmtree(output, ignore_errors=True)
    if arm_of(space.spec, cell).fuse == "vote":
        vote_folders(folders, output)
        return
    plans, about = dataset / f"{cell.plans}.json", dataset / "dataset.json"
    processes = space.spec.resources.cpus
    ensemble_folders([str(folder) for folder in folders], str(output), False, processes, str(about), str(plans))


def ensemble(space: Workspace, cell: Cell, stop: StopRequest) -> None:
    """Fuse the members' predictions of the validation cases, and write what a training writes.

    Raises:
        Stopped: it was asked to stop.
        UserError: members have other validation cases than each other.
    """
    from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data

    members = members_of(space.spec, cell)
    states = [read_state(member.folder(space.root)) for member in members]
    if any(state["cases"] != states[0]["cases"] for state in states):
        raise UserError(f"{cell}: its members validate on different cases, so that there is nothing to fuse.")
    folder = cell.folder(space.root)
    started = time.monotonic()
    with _predictions(space, cell, members, states, stop) as folders:
        fuse(space, cell, folders, folder / _VALIDATION)
    seconds = (time.monotonic() - started) / len(states[0]["cases"])
    attempts = [a for member in members for a in read_attempts(member.folder(space.root)).values()]
    write_state(
        folder,
        {
            "fingerprint": fingerprint_of_data(space, cell) | {"device": states[0]["fingerprint"]["device"]},
            "iterations_per_epoch": max(state["iterations_per_epoch"] for state in states),
            "batch_size": states[0]["batch_size"],
            "parameters": sum(state["parameters"] for state in states),
            "inference_seconds_per_case": max(seconds, sum(state["inference_seconds_per_case"] for state in states)),
            "seconds_per_epoch": None,
            # What the members have cost is the cost of the ensemble.
            "members": {
                name: sum(getattr(attempt, name) for attempt in attempts)
                for name in ("wall_seconds", "cpu_seconds", "gpu_seconds")
            },
            "cases": states[0]["cases"],
            "validation": str(folder / _VALIDATION),
        },
    )


@contextmanager
def _predictions(
    space: Workspace, cell: Cell, members: Sequence[Cell], states: Sequence[dict[str, Any]], stop: StopRequest
) -> Iterator[list[Path]]:
    """Folders with the members' predictions of the validation cases.

    Probabilities are predicted anew, into a folder that goes: they take a hundred times the room of label maps.
    """
    if arm_of(space.spec, cell).fuse == "vote":
        yield [Path(state["validation"]) for state in states]
        return
    with tempfile.TemporaryDirectory(dir=cell.folder(space.root), prefix=".probabilities_") as scratch:
        folders = []
        for number, member in enumerate(members):
            stop.check()
            folders.append(_with_probabilities(space, member, Path(scratch) / str(number)))
        yield folders


def _with_probabilities(space: Workspace, member: Cell, folder: Path) -> Path:
    """Let nnU-Net validate a trained member once more, with probabilities, somewhere else."""
    trainer = build_trainer(space, member)
    initialize(space, trainer)
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    folder.mkdir()
    trainer.output_folder = trainer.output_folder_base = str(folder)
    trainer.perform_actual_validation(True)
    return folder / _VALIDATION
