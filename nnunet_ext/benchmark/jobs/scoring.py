"""Scores of a trained cell and its record, in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data, metrics_fingerprint
from nnunet_ext.benchmark.postprocessing import postprocessed
from nnunet_ext.benchmark.records import (
    METRICS,
    Attempt,
    AttemptFailure,
    Cell,
    Failure,
    Fingerprint,
    Record,
    Usage,
    read_attempts,
)
from nnunet_ext.benchmark.scores import score
from nnunet_ext.benchmark.workspace import Workspace, read_state
from nnunet_ext.core.environment import require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_text


def predictions_folder(folder: Path, test_set: str) -> Path:
    """Where the predictions of a test set lie in a cell's folder."""
    return folder / "predictions" / test_set


def evaluate(space: Workspace, cell: Cell) -> None:
    """Score the final validation and the test sets, then write the record.

    Raises:
        UserError: a prediction is missing or cannot be scored.
    """
    folder = cell.folder(space.root)
    state = read_state(folder)
    dataset = require_folder("nnUNet_preprocessed") / cell.dataset
    about = dataset / "dataset.json"
    references = dataset / "gt_segmentations"
    with postprocessed(space.spec, Path(state["validation"]), about) as predictions:
        tables = {METRICS: score(space.spec, references, predictions, about, state["cases"])}
    for test in space.spec.test_sets:
        if test.dataset in (None, cell.dataset):
            with postprocessed(space.spec, predictions_folder(folder, test.name), about) as predictions:
                tables[f"test_{test.name}.csv"] = score(space.spec, test.labels, predictions, about, None)
    for name, text in tables.items():
        write_text(folder / name, text)
    finish(space, cell, state)


def finish(space: Workspace, cell: Cell, state: dict[str, Any]) -> None:
    """Write the record of a cell that is trained and scored."""
    attempts = read_attempts(cell.folder(space.root))
    Record(
        cell,
        "finished",
        None,
        usage_of(attempts, state),
        Fingerprint(**state["fingerprint"] | {"metrics": metrics_fingerprint(space)}),
        state["iterations_per_epoch"],
        state["batch_size"],
        attempts[min(attempts)].started,
        attempts[max(attempts)].ended or "",
    ).write(space.root)


def fail(space: Workspace, cell: Cell) -> bool:
    """Write the record of a cell whose last attempt has failed; whether it has."""
    attempts = read_attempts(cell.folder(space.root))
    if not attempts:
        return False
    number = max(attempts)
    failure = attempts[number].failure
    if failure is None and attempts[number].exit_code is None:
        failure = AttemptFailure("lost node", "the job ended without a word: it was killed, or its machine went down")
    if failure is None:
        return False
    try:
        found = fingerprint_of_data(space, cell) if space.run.pretended is None else None
    except UserError:  # the dataset itself may be what failed
        found = None
    empty = Fingerprint(**dict.fromkeys(Fingerprint.__dataclass_fields__, ""))
    Record(
        cell,
        "failed",
        Failure(failure.kind, failure.message, number),
        usage_of(attempts, {}),
        empty if found is None else replace(empty, **found),
        space.spec.iterations or 0,
        0,
        attempts[min(attempts)].started,
        attempts[number].ended or attempts[number].started,
    ).write(space.root)
    return True


def usage_of(attempts: dict[int, Attempt], state: dict[str, Any]) -> Usage:
    """Sums and maxima over the attempts of a cell."""
    every = attempts.values()
    epochs = sum(
        a.last_epoch - a.first_epoch + 1 for a in every if a.first_epoch is not None and a.last_epoch is not None
    )
    seconds = state.get("seconds_per_epoch")
    of_members: dict[str, float] = state.get("members", {})

    def largest(name: str) -> int | None:
        return max((getattr(a, name) for a in every if getattr(a, name) is not None), default=None)

    return Usage(
        attempts=len(attempts),
        wall_seconds=sum(a.wall_seconds for a in every) + of_members.get("wall_seconds", 0.0),
        cpu_seconds=sum(a.cpu_seconds for a in every) + of_members.get("cpu_seconds", 0.0),
        gpu_seconds=sum(a.gpu_seconds for a in every) + of_members.get("gpu_seconds", 0.0),
        training_seconds=(seconds or 0.0) * epochs,
        epochs=epochs,
        seconds_per_epoch=seconds,
        peak_allocated_bytes=largest("peak_allocated_bytes"),
        peak_reserved_bytes=largest("peak_reserved_bytes"),
        peak_rss_bytes=largest("peak_rss_bytes"),
        parameters=state.get("parameters"),
        inference_seconds_per_case=state.get("inference_seconds_per_case"),
    )


def main(arguments: list[str]) -> int:
    """Evaluate the cell that is named; gives the exit code."""
    work, key = arguments
    space = Workspace.open(Path(work))
    try:
        evaluate(space, space.cell(key))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
