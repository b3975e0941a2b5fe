"""A step of a cell as a job: one at a time, logged, measured, with its failure told in words."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ext.benchmark import devices
from nnunet_ext.benchmark.failures import STOPPED, classify, is_hopeless
from nnunet_ext.benchmark.graph import seconds_to_save
from nnunet_ext.benchmark.jobs.child import Ended, Stop
from nnunet_ext.benchmark.records import (
    ATTEMPTS,
    RECORD,
    Attempt,
    AttemptFailure,
    Cell,
    attempt_path,
    read_attempts,
)
from nnunet_ext.benchmark.workspace import GAVE_UP, STATE, Workspace, declare_trained
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, write_text

TRAIN, EVALUATE, PREDICT = "train", "evaluate", "predict"
_LOCK = ".lock"
_WAITING_SECONDS = 2.0


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def run_step(space: Workspace, key: str, step: str, test_set: str = "", retries: bool = False) -> int:
    """Do a step of a cell, or take over what another job has done of it.

    Args:
        space: the work folder.
        key: of the cell.
        step: ``train``, ``predict`` or ``evaluate``.
        test_set: what is predicted.
        retries: whether this may be another try of a job that has failed in this run; what would fail in the same way
            is not tried then. By hand, everything is.

    Returns:
        The exit code: 0 when the step is done, ``STOPPED`` when it was asked to stop, else another number.

    Raises:
        UserError: there is no such cell, or it cannot be worked on.
    """
    cell = space.cell(key)
    folder = cell.folder(space.root)
    make_folder(folder / ATTEMPTS)
    with Stop().listening() as stop, ExitStack() as stack:
        lock = FileLock(folder / _LOCK)
        if not _acquired(lock):
            print(f"{cell}: another job works on it; waiting for its end.", flush=True)
            while not _acquired(lock):
                if stop.asked:
                    return STOPPED
        stack.callback(lock.release)
        if step == TRAIN and declare_trained(folder):
            return 0
        if retries and not _may_try(space, folder):
            return 1
        environment = stack.enter_context(_environment(space, cell, step))
        if step == TRAIN:
            return _train(space, cell, key, stop, environment)
        return _after_training(space, cell, key, step, test_set, stop, environment)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_WAITING_SECONDS)
    except Timeout:
        return False
    return True


def _may_try(space: Workspace, folder: Path) -> bool:
    """Whether no attempt of this run failed in a way that a further one would repeat."""
    file = folder / GAVE_UP
    if not file.is_file():
        return True
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["run"] != space.run.number:
        file.unlink()
        return True
    print(f"not tried again: {content['kind']}: {content['message']}", file=sys.stderr)
    return False


@contextmanager
def _environment(space: Workspace, cell: Cell, step: str) -> Iterator[dict[str, str]]:
    """Environment variables of the process that works; a GPU is held meanwhile where this machine's are shared."""
    cpus = space.spec.resources.cpus
    made = dict(os.environ)
    results = space.results(cell)
    results.mkdir(parents=True, exist_ok=True)
    made["nnUNet_results"] = str(results)
    # One core: batches are drawn in the training process itself, from its own random numbers.
    made.setdefault("nnUNet_n_proc_DA", str(0 if cpus == 1 else cpus))
    made.setdefault("nnUNet_def_n_proc", str(min(cpus, 8)))
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        made.setdefault(variable, "1")
    if step in (TRAIN, PREDICT) and space.spec.resources.gpus and space.run.gpus:
        with devices.one_of(space.run.gpus) as made["CUDA_VISIBLE_DEVICES"]:
            yield made
        return
    if space.run.gpus == () or step == EVALUATE:
        made["CUDA_VISIBLE_DEVICES"] = ""
    yield made


def _train(space: Workspace, cell: Cell, key: str, stop: Stop, environment: dict[str, str]) -> int:
    """One attempt, which goes on from the last checkpoint of those before."""
    folder = cell.folder(space.root)
    before = read_attempts(folder)
    _close_lost(folder, before)
    if not before:  # the user has removed the cell to run it anew
        for model in space.results(cell).glob(f"{cell.dataset}/{cell.trainer}__*__{cell.configuration}"):
            if model.name.split("__")[1] == _plans_file(space, cell):
                shutil.rmtree(model / f"fold_{cell.fold}", ignore_errors=True)
    number = max(before, default=0) + 1
    path = attempt_path(folder, number)
    Attempt(now()).write(path)
    started = time.monotonic()
    module = "pretended" if space.run.pretended is not None else "training"
    command = [sys.executable, "-m", f"nnunet_ext.benchmark.jobs.{module}", str(space.root), key, str(path)]
    ended = stop.run(command, path.with_suffix(".log"), environment)
    return _close(space, folder, number, ended, time.monotonic() - started)


def _plans_file(space: Workspace, cell: Cell) -> str:
    from nnunet_ext.benchmark.matrix import arm_of, plans_with_options

    return plans_with_options(arm_of(space.spec, cell), cell.plans)


def _close_lost(folder: Path, attempts: dict[int, Attempt]) -> None:
    """End the ledger entries of attempts that were killed together with their job: nobody else works on the cell."""
    for number, attempt in attempts.items():
        if attempt.exit_code is None:
            path = attempt_path(folder, number)
            failure = AttemptFailure(
                "lost node", "the job ended without a word: it was killed, or its machine went down"
            )
            log = path.with_suffix(".log")
            last = datetime.fromtimestamp((log if log.is_file() else path).stat().st_mtime, timezone.utc)
            seconds = (last - datetime.fromisoformat(attempt.started)).total_seconds()
            replace(
                attempt,
                ended=last.isoformat(timespec="milliseconds"),
                wall_seconds=max(attempt.wall_seconds, seconds),
                exit_code=-9,
                failure=failure,
            ).write(path)


def _close(space: Workspace, folder: Path, number: int, ended: Ended, seconds: float) -> int:
    """End the ledger entry of this attempt."""
    path = attempt_path(folder, number)
    attempt = Attempt.read(path)  # as the training has left it
    failure = _failure(space, path.with_suffix(".log"), ended, seconds)
    replace(
        attempt,
        ended=now(),
        wall_seconds=round(seconds, 3),
        cpu_seconds=round(max(ended.cpu_seconds, attempt.cpu_seconds), 3),
        gpu_seconds=round(seconds, 3) if attempt.peak_allocated_bytes is not None else 0.0,
        peak_rss_bytes=max(ended.peak_rss_bytes, attempt.peak_rss_bytes or 0),
        exit_code=ended.exit_code,
        failure=failure,
    ).write(path)
    if failure is None:
        return 0
    return _failed(space, folder, failure, path.with_suffix(".log"))


def _failure(space: Workspace, log: Path, ended: Ended, seconds: float) -> AttemptFailure | None:
    limit = None
    if space.run.executor == "slurm":
        limit = space.spec.resources.hours * 3600
        limit -= seconds_to_save(limit)
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return classify(ended.exit_code, text, asked_to_stop=ended.asked_to_stop, wall_seconds=seconds, limit_seconds=limit)


def _failed(space: Workspace, folder: Path, failure: AttemptFailure, log: Path) -> int:
    print(f"{failure.kind}: {failure.message} ({log})", file=sys.stderr, flush=True)
    if failure.kind in ("stopped", "time limit"):
        return STOPPED
    if is_hopeless(failure):
        write_text(folder / GAVE_UP, json.dumps({"run": space.run.number, **asdict(failure)}))
    return 1


def _after_training(
    space: Workspace, cell: Cell, key: str, step: str, test_set: str, stop: Stop, environment: dict[str, str]
) -> int:
    """Prediction of a test set, or evaluation; only where it fails it stands in the ledger."""
    folder = cell.folder(space.root)
    if step == EVALUATE and (folder / RECORD).is_file():
        return 0
    if not (folder / STATE).is_file():
        raise UserError(f"{cell} is not trained: do its step {TRAIN} first.")
    log = folder / ATTEMPTS / f"{step}{f'_{test_set}' if test_set else ''}.log"
    log.unlink(missing_ok=True)
    started, start = time.monotonic(), now()
    arguments = [str(space.root), key, *([test_set] if test_set else [])]
    if space.run.pretended is not None:
        command = [sys.executable, "-m", "nnunet_ext.benchmark.jobs.pretended", *arguments, step]
    else:
        module = {PREDICT: "prediction", EVALUATE: "scoring"}[step]
        command = [sys.executable, "-m", f"nnunet_ext.benchmark.jobs.{module}", *arguments]
    ended = stop.run(command, log, environment)
    seconds = time.monotonic() - started
    failure = _failure(space, log, ended, seconds)
    if failure is None:
        return 0
    number = max(read_attempts(folder), default=0) + 1
    kept = attempt_path(folder, number)
    shutil.copyfile(log, kept.with_suffix(".log"))
    Attempt(
        start,
        now(),
        round(seconds, 3),
        round(ended.cpu_seconds, 3),
        peak_rss_bytes=ended.peak_rss_bytes,
        exit_code=ended.exit_code,
        failure=failure,
    ).write(kept)
    return _failed(space, folder, failure, kept.with_suffix(".log"))
