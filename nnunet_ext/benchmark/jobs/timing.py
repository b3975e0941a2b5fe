"""A few iterations of a cell, timed, for the estimate of ``--dry-run``; nothing of it is kept."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.jobs.training import build_trainer, initialize, seed_everything
from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.core.errors import UserError

_WARM_UP, _TIMED = 1, 3


def time_iterations(space: Workspace, cell: Cell) -> dict[str, Any]:
    """What :func:`~nnunet_ext.benchmark.estimate.from_iterations` takes."""
    import torch

    seed_everything(cell.seed, cell.fold)
    trainer = build_trainer(space, cell)
    initialize(space, trainer)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()

    def timed(step: Any, loader: Any) -> float:
        for number in range(_WARM_UP + _TIMED):
            if number == _WARM_UP:
                start = time.monotonic()
            step(next(loader))
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.monotonic() - start) / _TIMED

    seconds = timed(trainer.train_step, trainer.dataloader_train)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        validation_seconds = timed(trainer.validation_step, trainer.dataloader_val)
    checkpoint = Path(trainer.output_folder) / "checkpoint.pth"
    trainer.save_checkpoint(str(checkpoint))
    return {
        "epochs": trainer.num_epochs,
        "iterations": trainer.num_iterations_per_epoch,
        "validation_iterations": trainer.num_val_iterations_per_epoch,
        "seconds": seconds,
        "validation_seconds": validation_seconds,
        "checkpoint_bytes": checkpoint.stat().st_size,
    }


def main(arguments: list[str]) -> int:
    """Time the cell that is named, write the numbers to the file that is; gives the exit code."""
    work, key, output = arguments
    space = Workspace.open(Path(work))
    try:
        timed = time_iterations(space, space.cell(key))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    Path(output).write_text(json.dumps(timed), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
