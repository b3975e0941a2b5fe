"""Training of a cell and its final validation by nnU-Net, in a process of its own.

Random numbers depend on seed, fold and epoch alone, so that all arms start from the same weights and, where they draw
alike, see the same batches; and so that a training that goes on from a checkpoint repeats what would have been.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.failures import NOT_A_NUMBER, STOPPED
from nnunet_ext.benchmark.jobs.progress import Ledger, Stopped, StopRequest, hold
from nnunet_ext.benchmark.matrix import arm_of, plans_with_options
from nnunet_ext.benchmark.records import CURVES, Cell
from nnunet_ext.benchmark.workspace import Workspace, declare_trained, write_state
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import replaced_when_complete, write_text

_LOCK = ".training.lock"
_CURVES = {
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "mean_fg_dice",
    "learning_rate": "lrs",
}


class NotANumberError(Exception):
    """The loss of an epoch is nan or infinite."""


def seed_everything(*entropy: int) -> None:
    """Seed the generators that nnU-Net draws from."""
    import numpy as np
    import torch

    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(seed)


def device_of(space: Workspace) -> Any:
    """Where a job of this benchmark computes."""
    import torch

    name = space.run.device
    if name == "auto":
        name = "cuda" if space.spec.resources.gpus and torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("No GPU can be used here: run on another machine, or with --gpus none.")
    return torch.device(name)


def build_trainer(space: Workspace, cell: Cell) -> Any:
    """The trainer of a cell, as nnU-Net builds it, on the device of the job."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args
    from torch.backends import cudnn

    device = device_of(space)
    torch.set_num_threads(space.spec.resources.cpus if device.type == "cpu" else 1)
    if device.type == "cuda":
        cudnn.benchmark = True  # as nnU-Net's own command does
    plans = plans_with_options(arm_of(space.spec, cell), cell.plans)
    trainer = get_trainer_from_args(
        cell.dataset, cell.configuration, cell.fold, cell.trainer, plans, continue_training=True, device=device
    )
    if not space.spec.mirroring:
        without_mirroring(trainer)
    return trainer


def initialize(space: Workspace, trainer: Any) -> None:
    """Build the networks of a trainer, in the precision of the benchmark."""
    from nnunet_ext.benchmark.jobs.precision import use_bfloat16

    trainer.initialize()
    if space.spec.precision == "bfloat16":
        use_bfloat16(trainer)


def train(space: Workspace, cell: Cell, ledger: Ledger, stop: StopRequest) -> None:
    """Train from where the attempts before have ended, then nnU-Net's final validation.

    Raises:
        Stopped: it was asked to stop; the last whole epoch is saved.
        NotANumberError: the loss is nan or infinite.
    """
    from nnunetv2.run.run_training import maybe_load_checkpoint

    from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data

    folder = cell.folder(space.root)
    seed_everything(cell.seed, cell.fold)
    trainer = build_trainer(space, cell)
    initialize(space, trainer)
    trainer.save_every = space.spec.save_every
    data = fingerprint_of_data(space, cell)
    with tempfile.TemporaryDirectory(prefix="nnunet_ext_") as scratch:
        keeper = _Keeper(trainer, Path(scratch), cell, ledger, stop)
        keeper.attach()
        maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
        try:
            if trainer.current_epoch < trainer.num_epochs:
                trainer.run_training()
        except (Stopped, Exception):
            if stop.came:  # a scheduler asks workers as well, whose end is an error in this process
                keeper.save_last_epoch()
                raise Stopped from None
            raise
    stop.check()
    _, cases = trainer.do_split()
    started = time.monotonic()
    _stoppable(trainer, stop)
    trainer.perform_actual_validation(False)
    seconds = (time.monotonic() - started) / len(cases)
    lengths = _write_curves(trainer, folder / CURVES)
    device = trainer.device
    state = {
        "fingerprint": data | {"device": _device_name(device, space.spec.precision)},
        "iterations_per_epoch": trainer.num_iterations_per_epoch,
        "batch_size": trainer.batch_size,
        "parameters": sum(p.numel() for p in trainer.network.parameters() if p.requires_grad),
        "inference_seconds_per_case": seconds,
        "seconds_per_epoch": sum(lengths) / len(lengths),
        "cases": sorted(map(str, cases)),
        "validation": str(Path(trainer.output_folder) / "validation"),
    }
    write_state(folder, state)


def _device_name(device: Any, precision: str) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {precision}" if precision != "auto" else str(device.type)


class _Keeper:
    """Seeds every epoch, keeps its state to be saved on a signal, and tells the ledger."""

    def __init__(self, trainer: Any, scratch: Path, cell: Cell, ledger: Ledger, stop: StopRequest) -> None:
        self.trainer = trainer
        self.cell = cell
        self.ledger = ledger
        self.stop = stop
        self._snapshot = scratch / "checkpoint.pth"
        self._save: Callable[[str], None] = trainer.save_checkpoint

    def attach(self) -> None:
        """Take part in nnU-Net's loop."""
        trainer = self.trainer
        start, end = trainer.on_train_epoch_start, trainer.on_epoch_end
        train_step, validation_step = trainer.train_step, trainer.validation_step

        def seeded_start() -> None:
            seed_everything(self.cell.seed, self.cell.fold, trainer.current_epoch)
            start()

        def checked(step: Callable[[Any], Any]) -> Callable[[Any], Any]:
            def stoppable(batch: Any) -> Any:
                self.stop.check()
                return step(batch)

            return stoppable

        def kept_end() -> None:
            loss = float(trainer.logger.get_value("train_losses", step=-1))
            if not math.isfinite(loss):
                raise NotANumberError(f"the training loss of epoch {trainer.current_epoch} is {loss}")
            end()
            self.ledger.epoch(trainer.current_epoch - 1, **self._memory())
            self._keep()
            self.stop.check()

        trainer.on_train_epoch_start, trainer.on_epoch_end = seeded_start, kept_end
        trainer.train_step, trainer.validation_step = checked(train_step), checked(validation_step)
        trainer.save_checkpoint = self._save_whole

    def _save_whole(self, filename: str) -> None:
        """Stock nnU-Net writes into the file of the last checkpoint; a kill then would leave none."""
        with replaced_when_complete(Path(filename)) as temporary:
            self._save(str(temporary))

    def _keep(self) -> None:
        """Keep the state after this epoch on the local disk, unless nnU-Net has just saved it."""
        trainer = self.trainer
        if trainer.current_epoch == trainer.num_epochs or trainer.current_epoch % trainer.save_every == 0:
            self._snapshot.unlink(missing_ok=True)
            return
        trainer.current_epoch -= 1  # as nnU-Net counts it where it saves
        try:
            self._save(str(self._snapshot))
        finally:
            trainer.current_epoch += 1

    def save_last_epoch(self) -> None:
        """Make the last whole epoch the one to go on from."""
        if self._snapshot.is_file():
            target = Path(self.trainer.output_folder) / "checkpoint_latest.pth"
            with replaced_when_complete(target, durable=True) as temporary:
                shutil.copyfile(self._snapshot, temporary)

    def _memory(self) -> dict[str, int]:
        if self.trainer.device.type != "cuda":
            return {}
        import torch

        return {
            "peak_allocated_bytes": torch.cuda.max_memory_allocated(self.trainer.device),
            "peak_reserved_bytes": torch.cuda.max_memory_reserved(self.trainer.device),
        }


def _stoppable(trainer: Any, stop: StopRequest) -> None:
    """Let the final validation end between two cases: it is done anew, and nothing else is lost."""
    stock = trainer.print_to_log_file

    def printed(*arguments: Any, **keywords: Any) -> None:
        stop.check()
        stock(*arguments, **keywords)

    trainer.print_to_log_file = printed


def without_mirroring(trainer: Any) -> None:
    """Let a trainer do what ``nnUNetTrainerNoMirroring`` does; like organs of both sides are told apart early then."""
    stock = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size

    def configure() -> tuple[Any, ...]:
        found = stock()
        trainer.inference_allowed_mirroring_axes = None
        return (*found[:3], None)

    trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size = configure


def _write_curves(trainer: Any, path: Path) -> list[float]:
    """Write the values of every epoch; gives the seconds that each took."""
    logged = trainer.logger.get_checkpoint()
    seconds = [
        end - start
        for start, end in zip(logged["epoch_start_timestamps"], logged["epoch_end_timestamps"], strict=False)
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["epoch", *_CURVES, "seconds"])
    for epoch, length in enumerate(seconds):
        values = [float(logged[key][epoch]) for key in _CURVES.values()]
        writer.writerow([epoch, *(repr(value) if math.isfinite(value) else "" for value in values), repr(length)])
    write_text(path, text.getvalue())
    return seconds


def main(arguments: list[str]) -> int:
    """Train the cell that is named; gives the exit code."""
    work, key, attempt = arguments
    stop = StopRequest()
    space = Workspace.open(Path(work))
    cell = space.cell(key)
    hold(cell.folder(space.root) / _LOCK)
    ledger = Ledger(Path(attempt))
    if declare_trained(cell.folder(space.root)):  # by a training whose job had ended before it
        ledger.update(exit_code=0)
        return 0
    try:
        if arm_of(space.spec, cell).ensemble:
            from nnunet_ext.benchmark.jobs.ensemble import ensemble

            ensemble(space, cell, stop)
        else:
            train(space, cell, ledger, stop)
    except Stopped:
        print("Stopped as asked; the last whole epoch is saved.", flush=True)
        return STOPPED
    except NotANumberError as error:
        print(f"NaN: {error}", file=sys.stderr, flush=True)
        return NOT_A_NUMBER
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1
    with contextlib.suppress(OSError):
        ledger.update(exit_code=0)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
