"""A pretended training, for tests of the engine: epochs of a set length, a checkpoint, scores from random numbers.

It resumes, stops and tells its ledger as a real one does, through the same code, and needs no data and no torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

from nnunet_ext.benchmark.failures import NOT_A_NUMBER, STOPPED
from nnunet_ext.benchmark.fingerprint import of_data
from nnunet_ext.benchmark.jobs.progress import Ledger, Stopped, StopRequest, hold
from nnunet_ext.benchmark.jobs.scoring import finish
from nnunet_ext.benchmark.matrix import arm_of
from nnunet_ext.benchmark.records import CURVES, METRICS, Cell, Fingerprint
from nnunet_ext.benchmark.scores import HEADER, columns_of
from nnunet_ext.benchmark.workspace import Workspace, read_state, write_state
from nnunet_ext.core.files import write_text

_CHECKPOINT = "pretended_checkpoint.json"
_LABELS = ("liver", "spleen")
_CASES = 4
_DEFAULT_EPOCHS = 2
# Arms may fail on purpose: the name of the arm ends in one of these.
_FAILURES = {"nan": NOT_A_NUMBER, "memory": 1, "data": 1}


def train(space: Workspace, cell: Cell, ledger: Ledger, stop: StopRequest) -> None:
    """Sleep through the epochs, whose state is saved every ``save_every`` epochs and when asked to stop."""
    folder = cell.folder(space.root)
    checkpoint = folder / _CHECKPOINT
    done = json.loads(checkpoint.read_text(encoding="utf-8")) if checkpoint.is_file() else []
    epochs = arm_of(space.spec, cell).epochs or space.spec.epochs or _DEFAULT_EPOCHS
    seconds = space.run.pretended or 0.0
    try:
        for epoch in range(len(done), epochs):
            print(f"epoch {epoch} in process {os.getpid()}", flush=True)
            until = time.monotonic() + seconds
            while (left := until - time.monotonic()) > 0:
                stop.check()
                time.sleep(min(left, 0.02))
            done.append(float(np.random.default_rng([cell.seed, cell.fold, epoch]).random()))
            ledger.epoch(epoch)
            if (epoch + 1) % space.spec.save_every == 0:
                write_text(checkpoint, json.dumps(done))
            stop.check()
    except Stopped:
        write_text(checkpoint, json.dumps(done))
        raise
    rows = "".join(f"{epoch},{value!r},{value!r},{1 - value!r},0.01,{seconds}\n" for epoch, value in enumerate(done))
    write_text(folder / CURVES, "epoch,train_loss,val_loss,pseudo_dice,learning_rate,seconds\n" + rows)
    fingerprint = dict.fromkeys(Fingerprint.__dataclass_fields__, of_data("pretended")) | {"device": "cpu"}
    state = {
        "fingerprint": fingerprint,
        "iterations_per_epoch": space.spec.iterations or 1,
        "batch_size": 1,
        "parameters": 1,
        "inference_seconds_per_case": 0.0,
        "seconds_per_epoch": seconds,
        "cases": [],
        "validation": "",
    }
    write_state(folder, state)


def evaluate(space: Workspace, cell: Cell) -> None:
    """Write scores that depend on the cell alone, then its record."""
    folder = cell.folder(space.root)
    generator = np.random.default_rng([cell.seed, cell.fold, *cell.arm.encode()])
    rows = [",".join(HEADER)]
    for case in range(_CASES):
        for label in _LABELS:
            for name in columns_of(space.spec.metrics):
                rows.append(f"case_{cell.fold}_{case},{label},{name},{float(generator.random())!r}")
    write_text(folder / METRICS, "\n".join(rows) + "\n")
    finish(space, cell, read_state(folder))


def main(arguments: list[str]) -> int:
    """Train or evaluate the cell that is named; gives the exit code."""
    work, key, *rest = arguments
    space = Workspace.open(Path(work))
    cell = space.cell(key)
    if rest[-1] == "evaluate":
        evaluate(space, cell)
        return 0
    stop = StopRequest()
    hold(cell.folder(space.root) / ".training.lock")
    for word, code in _FAILURES.items():
        if cell.arm.endswith(f"_{word}"):
            print({"nan": "the loss is nan", "memory": "MemoryError: no room", "data": "error: no file"}[word])
            return code
    ledger = Ledger(Path(rest[0]))
    try:
        train(space, cell, ledger, stop)
    except Stopped:
        return STOPPED
    ledger.update(exit_code=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
