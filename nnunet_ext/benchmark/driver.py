"""A run of a benchmark from beginning to end: checks, the jobs through the engine, what came of them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout

from nnunet_ext.benchmark import checks, fingerprint, slurm
from nnunet_ext.benchmark.engine import Settings
from nnunet_ext.benchmark.estimate import TIMINGS, Estimate, estimate, from_iterations, timing_key
from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data
from nnunet_ext.benchmark.jobs.scoring import fail
from nnunet_ext.benchmark.matrix import cell_key, cells_of, members_of, preparations
from nnunet_ext.benchmark.records import ENVIRONMENT, RECORD, SPECIFICATION, Cell, Record, read_attempts, read_object
from nnunet_ext.benchmark.spec import CASCADE, Spec
from nnunet_ext.benchmark.state import State, is_done, states_of
from nnunet_ext.benchmark.workspace import RUN, STATE, TRAINED, Run, Workspace, read_run, read_specification
from nnunet_ext.core.environment import require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, write_text

_LOCK = ".driver.lock"
_LOOK_SECONDS = 0.5
_PACKAGES = ("nnunetv2", "torch", "numpy", "scipy", "pandas", "batchgeneratorsv2", "dynamic-network-architectures")
TARGETS = {None: "all", "train": "trained", "prepare": "prepared"}

Progress = Callable[[Workspace, list[Cell], str], None]


@dataclass(frozen=True)
class Options:
    """Choices of a run that say nothing about its results.

    Attributes:
        cores: of this machine.
        gpus: of this machine to share out.
        until: ``train`` or ``prepare``, where it ends; ``None``: at the scores.
        retries: of a failed job.
        executor: ``local`` or ``slurm``.
        jobs: at a time on a cluster.
        poll_seconds: between two looks at a cluster's queue.
        cluster: partition, account, qos.
        pretended: seconds of an epoch of pretended trainings, for tests.
    """

    cores: int = 1
    gpus: tuple[str, ...] = ()
    until: str | None = None
    retries: int = 2
    executor: str = "local"
    jobs: int = 100
    poll_seconds: int = 20
    cluster: dict[str, str] | None = None
    pretended: float | None = None

    @property
    def target(self) -> str:
        """The target of the Snakefile."""
        return TARGETS[self.until]


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        states: of all cells.
        stopped: whether it was asked to stop.
        log: of the engine.
    """

    states: list[State]
    stopped: bool
    log: Path | None


def require_engine(executor: str = "local") -> None:
    """Check that the optional packages are there.

    Raises:
        UserError: they are not.
    """
    install = "in the clone of nnunet_ext run pip install '.[benchmark]'"
    if sys.version_info < (3, 11):
        raise UserError(
            f"A benchmark needs Python 3.11 or newer, and this is {platform.python_version()}: {install} there."
        )
    packages = ["snakemake", *(["snakemake_executor_plugin_slurm"] if executor == "slurm" else [])]
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(f"The package {package} is not installed: {install}.")


def plan(spec: Spec, work: Path, options: Options) -> Workspace:
    """Check everything and say what the work folder will hold; writes nothing.

    Raises:
        UserError: something is missing, does not exist or does not fit what is there.
    """
    checks.check_metrics(spec)
    before = None
    if (work / SPECIFICATION).is_file():
        before = Workspace(work, read_specification(work), read_run(work) if (work / RUN).is_file() else Run())
    if options.pretended is not None:
        spec = _pretended_names(spec)
    else:
        spec = checks.check_environment(spec, None if before is None else before.spec)
    number = 1
    if before is not None:
        before.check_same_runs(spec)
        number = before.run.number + 1
    gpus = None if options.executor == "slurm" else options.gpus
    device = "auto" if options.executor == "slurm" or options.gpus else "cpu"
    run = Run(number, sys.executable, gpus, device, options.executor, {}, options.pretended)
    return Workspace(work.absolute(), spec, run)


def run(space: Workspace, options: Options, show: Progress | None = None) -> Outcome:
    """Do what is not done.

    Args:
        space: what :func:`plan` has given.
        options: of the run.
        show: called now and then with the work folder, the cells and the target.

    Raises:
        UserError: another run works in the folder, or what is there does not fit.
    """
    require_engine(options.executor)
    if options.executor == "slurm":
        slurm.require_slurm()
    make_folder(space.root)
    lock = FileLock(space.root / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(f"Another run works in {space.root}: wait for its end, or stop it.") from None
    with lock:
        if any(dataset.name is None for dataset in space.spec.datasets):
            space.save()
            ended = _run_engine(space, replace(options, until="prepare"), None)
            if ended.stopped:
                return ended
            space = replace(space, spec=_named_after_conversion(space))
            if options.until == "prepare":
                return replace(ended, states=states_of(space, cells_of(space.spec)))
        cells = cells_of(space.spec)
        _clear(space, cells)
        if options.executor == "slurm":
            after = slurm.clear_queue(space.root, map(cell_key, cells))
            space = replace(space, run=replace(space.run, after=after))
        space.save()
        _write_environment(space)
        if _let_prepare_again(space):
            ended = _run_engine(space, replace(options, until="prepare"), None)
            if ended.stopped:
                return replace(ended, states=states_of(space, cells))
        if options.until != "prepare" and all(is_done(space, cell, options.target) for cell in cells):
            return Outcome(states_of(space, cells), False, None)
        checks.check_space(space.root, estimate(space, states_of(space, cells)).disk_bytes)
        ended = _run_engine(space, options, show)
        if not ended.stopped and options.until != "prepare":
            for cell in cells:
                if not is_done(space, cell, options.target):
                    fail(space, cell)
        return replace(ended, states=states_of(space, cells))


def _pretended_names(spec: Spec) -> Spec:
    named = tuple(replace(one, name=one.name or f"Dataset{one.id:03d}_Pretended") for one in spec.datasets)
    return replace(spec, datasets=named)


def _named_after_conversion(space: Workspace) -> Spec:
    spec = checks.with_names(space.spec, require_folder("nnUNet_raw"))
    for dataset in spec.datasets:
        if dataset.name is None or not space.prepared(dataset.key).is_file():
            log = space.prepared(dataset.key).with_name("prepare.log")
            raise UserError(f"Dataset {dataset.key} could not be prepared: see {log}.")
    return checks.check_environment(spec)


def _let_prepare_again(space: Workspace) -> bool:
    """Let datasets be prepared for what a benchmark has been extended by; whether there are any.

    They need a run of the engine before that of the cells, which would take all of these for out of date.
    """
    wanted = {*preparations(space.spec)}
    files = [space.prepared(dataset.key) for dataset in space.spec.datasets]
    short = [file for file in files if file.is_file() and not wanted <= {*read_object(file).get("for", [])}]
    for file in short:
        file.unlink()
    return bool(short)


def _clear(space: Workspace, cells: list[Cell]) -> None:
    """Let failed cells be tried again, and those be scored again whose metrics have changed."""
    for record in checks.check_results(space):
        (record.cell.folder(space.root) / RECORD).unlink()
    for cell in cells:
        file = cell.folder(space.root) / RECORD
        if file.is_file() and Record.read(file).status == "failed":
            file.unlink()
        # A cell whose folder was removed in part, for example: what says that it is trained must be the whole truth.
        trained = cell.folder(space.root) / TRAINED
        if trained.is_file() and not (cell.folder(space.root) / STATE).is_file():
            trained.unlink()


def _run_engine(space: Workspace, options: Options, show: Progress | None) -> Outcome:
    """Snakemake in a process group of its own: a wish to stop reaches it and its jobs as one Ctrl-C."""
    settings = Settings(
        options.target,
        options.cores,
        len(space.run.gpus or ()),
        options.retries,
        options.executor,
        options.jobs,
        options.poll_seconds,
        slurm.job_prefix(space.root),
        options.cluster,
    )
    log = space.root / "logs" / f"run_{space.run.number}.log"
    make_folder(log.parent)
    cells = cells_of(space.spec) if all(dataset.name for dataset in space.spec.datasets) else []
    with log.open("a") as output, _stop_signals() as asked:
        engine = subprocess.Popen(
            [sys.executable, "-m", "nnunet_ext.benchmark.engine", str(space.root)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        assert engine.stdin is not None
        with contextlib.suppress(BrokenPipeError), engine.stdin:
            engine.stdin.write(json.dumps(asdict(settings)).encode())
        passed_on = False
        while engine.poll() is None:
            if asked and not passed_on:
                passed_on = True
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(engine.pid, signal.SIGINT)
            if show is not None:
                show(space, cells, options.target)
            time.sleep(_LOOK_SECONDS)
        if show is not None:
            show(space, cells, options.target)
    if not asked:
        _refuse_engine_failure(space, cells, engine.returncode, log)
    return Outcome([], bool(asked), log)


def _refuse_engine_failure(space: Workspace, cells: list[Cell], exit_code: int, log: Path) -> None:
    """Tell a failure that no cell's ledger tells.

    Raises:
        UserError: the engine has failed, and no job of a cell did.
    """
    if exit_code == 0:
        return
    for dataset in space.spec.datasets:
        if not space.prepared(dataset.key).is_file():
            own = space.prepared(dataset.key).with_name("prepare.log")
            lines = [line for file in (own, log) if file.is_file() for line in file.read_text().splitlines()]
            told = [line.removeprefix("error: ").rstrip(".") for line in lines if line.startswith("error: ")]
            why = f" ({told[-1]})" if told else ""
            raise UserError(f"Dataset {dataset.name or dataset.key} could not be prepared{why}: see {own} and {log}.")
    if not any(read_attempts(cell.folder(space.root)) for cell in cells):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        raise UserError(f"The engine failed ({lines[-1] if lines else exit_code}): see {log}.")


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that signals to stop are added to, meanwhile."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_environment(space: Workspace) -> None:
    from nnunet_ext import __version__

    content = {
        "python": platform.python_version(),
        "packages": {"nnunet_ext": __version__, **{name: fingerprint.version(name) for name in _PACKAGES}},
        "machine": platform.platform(),
        "cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "gpu": ", ".join(space.run.gpus or ()) or "none" if space.run.executor == "local" else "of the cluster",
    }
    write_text(space.root / ENVIRONMENT, json.dumps(content, indent=2) + "\n")


def time_cells(space: Workspace) -> Iterator[str]:
    """Time a few iterations of each arm, where its dataset is prepared; yields what is timed.

    Not of ensembles, which are not trained, nor of a second stage, which waits for the predictions of the first.

    Raises:
        UserError: a trainer does not run.
    """
    space.save()
    file = space.root / TIMINGS
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for cell in cells_of(space.spec):
        key = timing_key(cell)
        if key in known or members_of(space.spec, cell) or cell.configuration == CASCADE:
            continue
        yield key
        fingerprint_of_data(space, cell)
        with tempfile.TemporaryDirectory() as scratch:
            output = Path(scratch) / "timed.json"
            command = [
                sys.executable,
                "-m",
                "nnunet_ext.benchmark.jobs.timing",
                str(space.root),
                cell_key(cell),
                str(output),
            ]
            environment = os.environ | {"nnUNet_results": scratch, "nnUNet_n_proc_DA": "0"}
            done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
            if done.returncode or not output.is_file():
                told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
                raise UserError(f"{cell} cannot be timed: {told[-1].removeprefix('error: ') if told else 'no output'}")
            known[key] = from_iterations(json.loads(output.read_text(encoding="utf-8")))
        write_text(file, json.dumps(known, indent=2) + "\n")


def outlook(space: Workspace) -> tuple[list[State], Estimate]:
    """Where all cells stand, and what is left to do."""
    states = states_of(space, cells_of(space.spec))
    return states, estimate(space, states)
