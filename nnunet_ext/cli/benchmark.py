"""``nnunet-ext benchmark``: trainers side by side on the same data, by one file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nnunet_ext.core.errors import UserError

if TYPE_CHECKING:
    from nnunet_ext.benchmark.driver import Options
    from nnunet_ext.benchmark.state import State
    from nnunet_ext.benchmark.workspace import Workspace

app = typer.Typer(
    help="Trainers side by side on the same data, folds and seeds: run a whole matrix, here or on a cluster.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_FILE = Annotated[Path, typer.Argument(metavar="BENCHMARK.yaml", help="The benchmark.", show_default=False)]
_WORK = Annotated[
    Path | None, typer.Option("--work", help="Folder for everything that is made; default: benchmark beside the file.")
]
_STYLES = {"finished": "green", "trained": "cyan", "running": "yellow", "stopped": "magenta", "failed": "red"}


def work_folder(file: Path, work: Path | None) -> Path:
    """The work folder of a benchmark file, or of itself."""
    return (work or file.resolve().parent / "benchmark").absolute()


@app.command()
def init(
    file: Annotated[Path, typer.Argument(help="The file to write.")] = Path("benchmark.yaml"),
) -> None:
    """Write a commented example of a benchmark file.

    Example: nnunet-ext benchmark init benchmark.yaml
    """
    from nnunet_ext.benchmark.spec_file import write_example

    write_example(file)
    typer.echo(f"Wrote {file}: edit it, then nnunet-ext benchmark run {file} --dry-run")


@app.command()
def run(
    file: _FILE,
    work: _WORK = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of this machine; default: all.")] = None,
    gpus: Annotated[
        str | None, typer.Option(help="GPUs of this machine, as 0,1, or none; default: all that it has.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="Step to end with: prepare or train.", show_default=False)] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the matrix, what is to do, time and disk; do nothing.")
    ] = False,
    time_epoch: Annotated[
        bool, typer.Option("--time-epoch", help="With --dry-run: time a few iterations of each arm before.")
    ] = False,
    retries: Annotated[int, typer.Option(min=0, help="Of a failed job.")] = 2,
    executor: Annotated[str, typer.Option(help="local, or slurm for a cluster.")] = "local",
    partition: Annotated[str | None, typer.Option(help="slurm: partition.", show_default=False)] = None,
    account: Annotated[str | None, typer.Option(help="slurm: account.", show_default=False)] = None,
    qos: Annotated[str | None, typer.Option(help="slurm: quality of service.", show_default=False)] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="slurm: jobs at a time; default: 100.", show_default=False)
    ] = None,
    poll: Annotated[
        int | None,
        typer.Option(min=1, help="slurm: seconds between two looks at the queue; default: 20.", show_default=False),
    ] = None,
    small: Annotated[
        bool, typer.Option("--small", help="On the phantom in place of the data, tiny and short: does it run?")
    ] = False,
    dummy: Annotated[float | None, typer.Option(hidden=True, help="Pretend trainings of so long epochs.")] = None,
) -> None:
    """Run a benchmark, or go on with it after a stop, a crash or a change of the file.

    Example: nnunet-ext benchmark run benchmark.yaml --gpus 0,1
    """
    from nnunet_ext.benchmark import driver
    from nnunet_ext.benchmark.spec_file import load

    cluster = {name: value for name, value in (("partition", partition), ("account", account), ("qos", qos)) if value}
    options = _options(executor, cores, gpus, until, retries, jobs, poll, cluster, dummy)
    if time_epoch and not dry_run:
        raise UserError("--time-epoch goes with --dry-run.")
    spec, folder = load(file), work_folder(file, work)
    if small:
        from nnunet_ext.benchmark.small import shrink

        spec, folder = shrink(spec, folder.with_name(f"{folder.name}_small")), folder.with_name(f"{folder.name}_small")
    space = driver.plan(spec, folder, options)
    if dry_run:
        _outlook(space, options, file, time_epoch)
        return
    if options.executor == "local" and space.spec.resources.gpus and not options.gpus and dummy is None:
        typer.echo("No GPU is used: trainings run on the CPU.")
    started = time.monotonic()
    watcher = _Watcher()
    with watcher:
        outcome = driver.run(space, options, watcher.show)
    _conclude(space, outcome.states, outcome.stopped, outcome.log, file, time.monotonic() - started, options, small)


def _options(
    executor: str,
    cores: int | None,
    gpus: str | None,
    until: str | None,
    retries: int,
    jobs: int | None,
    poll: int | None,
    cluster: dict[str, str],
    dummy: float | None,
) -> Options:
    from nnunet_ext.benchmark.devices import parse_gpus, visible_gpus
    from nnunet_ext.benchmark.driver import TARGETS, Options

    if executor not in ("local", "slurm"):
        raise UserError(f"--executor is local or slurm, not {executor}.")
    if until not in TARGETS:
        raise UserError(f"--until is prepare or train, not {until}.")
    given = [*cluster, *(["jobs"] if jobs else []), *(["poll"] if poll else [])]
    if executor == "local" and given:
        raise UserError(f"--{given[0]} is of a cluster: add --executor slurm, or leave it out.")
    if executor == "slurm" and gpus is not None:
        raise UserError(
            "--gpus is of a local run: on a cluster the scheduler assigns GPUs, see 'resources:' of the file."
        )
    there = visible_gpus() if executor == "local" else ()
    return Options(
        cores or os.cpu_count() or 1,
        there if gpus is None else parse_gpus(gpus, there),
        until,
        retries,
        executor,
        jobs or 100,
        poll or 20,
        cluster or None,
        dummy,
    )


@app.command()
def status(
    file: _FILE,
    work: _WORK = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it until Ctrl-C.")] = False,
) -> None:
    """Show the matrix of a benchmark: what is done, what runs, what failed and why.

    Example: nnunet-ext benchmark status benchmark.yaml --watch
    """
    from rich.console import Console
    from rich.live import Live

    from nnunet_ext.benchmark.workspace import Workspace

    space = Workspace.open(work_folder(file, work))
    console = Console(soft_wrap=True)
    if not watch:
        console.print(_matrix(space))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            live.update(_matrix(space), refresh=True)
            time.sleep(2)


@app.command()
def report(
    file: _FILE,
    work: _WORK = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="Folder for report.html and tables; default: report in the work folder.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Also write all evidence into this zip, for nnunet-ext benchmark verify.")
    ] = None,
) -> None:
    """Write one page on what is finished: tables, tests, ranks, curves, cost, failures.

    Example: nnunet-ext benchmark report benchmark.yaml
    """
    from nnunet_ext.benchmark.report import write_bundle, write_report

    folder = work_folder(file, work)
    target = output or folder / "report"
    write_report(folder, target)
    typer.echo(f"Wrote {target / 'report.html'}")
    if bundle is not None:
        write_bundle(folder, bundle)
        typer.echo(f"Wrote {bundle}")


@app.command()
def verify(bundle: Annotated[Path, typer.Argument(help="A bundle of nnunet-ext benchmark report.")]) -> None:
    """Make tables and figures of a bundle again and compare them byte for byte.

    Example: nnunet-ext benchmark verify evidence.zip
    """
    from nnunet_ext.benchmark.report import verify_bundle

    verify_bundle(bundle)
    typer.echo(f"{bundle}: tables and figures are those that its values give.")


@app.command(hidden=True)
def job(
    step: Annotated[str, typer.Argument(help="prepare, train, predict or evaluate.")],
    key: Annotated[str, typer.Argument(help="A dataset for prepare, else a cell: its folder below cells.")],
    work: Annotated[Path, typer.Option("--work", help="Work folder of the benchmark.")] = Path("benchmark"),
    test_set: Annotated[str, typer.Option(help="What is predicted.")] = "",
) -> None:
    """Do one job of a benchmark that was run before, by hand.

    Example: nnunet-ext benchmark job train Dataset004_X/3d_fullres/nnUNetPlans/stock/fold_0/seed_0
    """
    from nnunet_ext.benchmark.jobs.__main__ import STEPS
    from nnunet_ext.benchmark.jobs.__main__ import run as run_job

    if step not in STEPS:
        raise UserError(f"There is no step {step}: there are {', '.join(STEPS)}.")
    raise typer.Exit(run_job(work, step, key, test_set))


class _Watcher:
    """Progress of a run: a bar on a terminal, else a line for each cell that ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(soft_wrap=True)
        columns: tuple[Any, ...] = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[running]}"),
        )
        self._bar = Progress(*columns, console=self._console, transient=True)
        self._task = self._bar.add_task("cells", total=None, running="")
        self._done: set[str] = set()
        self._looked = 0.0

    def __enter__(self) -> _Watcher:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def show(self, space: Workspace, cells: Sequence[Any], target: str) -> None:
        from nnunet_ext.benchmark.matrix import cell_key
        from nnunet_ext.benchmark.state import is_done

        if target == "prepared":
            return
        new = [cell for cell in cells if cell_key(cell) not in self._done and is_done(space, cell, target)]
        first = not self._done and self._looked == 0.0
        self._looked = time.monotonic()
        for cell in new:
            self._done.add(cell_key(cell))
            if not self._console.is_terminal and not first:
                self._console.print(f"{len(self._done)}/{len(cells)}  {cell}", highlight=False, markup=False)
        self._bar.update(self._task, total=len(cells), completed=len(self._done))


def _matrix(space: Workspace) -> Any:
    """The matrix as a table: a row an arm, a column a fold and seed."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from nnunet_ext.benchmark.matrix import cells_of
    from nnunet_ext.benchmark.state import states_of

    if any(dataset.name is None for dataset in space.spec.datasets):
        return Text(f"{space.spec.name}: datasets are being converted.")
    states = states_of(space, cells_of(space.spec))
    parts: list[Any] = []
    groups: dict[tuple[str, str, str], list[State]] = {}
    for state in states:
        groups.setdefault((state.cell.dataset, state.cell.configuration, state.cell.plans), []).append(state)
    for group, own in groups.items():
        columns = sorted({(state.cell.fold, state.cell.seed) for state in own})
        seeds = len(space.spec.seeds) > 1
        heads = [f"fold {fold}{f', seed {seed}' if seeds else ''}" for fold, seed in columns]
        table = Table("arm", *heads, box=None, padding=(0, 2, 0, 0))
        for arm in dict.fromkeys(state.cell.arm for state in own):
            by_place = {(s.cell.fold, s.cell.seed): s for s in own if s.cell.arm == arm}
            shown = [by_place.get(column) for column in columns]  # an arm may have fewer folds than others
            table.add_row(
                arm, *(Text(state.short, style=_STYLES.get(state.stage, "dim")) if state else Text() for state in shown)
            )
        parts += [Text(" · ".join(group), style="bold"), table, Text()]
    counts = {stage: sum(s.stage == stage for s in states) for stage in ("finished", "running", "failed")}
    parts.append(Text(f"{len(states)} cells: " + ", ".join(f"{n} {stage}" for stage, n in counts.items())))
    parts += [
        Text(f"{state.cell}: {state.failure} ({state.attempts} attempts)", style="red")
        for state in states
        if state.stage == "failed"
    ]
    return Group(*parts)


def _outlook(space: Workspace, options: Options, file: Path, time_epoch: bool) -> None:
    from rich.console import Console

    from nnunet_ext.benchmark import checks, driver
    from nnunet_ext.benchmark.matrix import number_of_cells

    console = Console(soft_wrap=True)
    unnamed = [dataset for dataset in space.spec.datasets if dataset.name is None]
    if unnamed:
        for dataset in unnamed:
            console.print(f"Dataset {dataset.key} is converted first: nnunet-ext convert {dataset.convert}.")
        console.print(f"The matrix has {number_of_cells(space.spec)} cells; nothing is done.")
        return
    again = {record.cell for record in checks.check_results(space)}
    if time_epoch:
        for what in driver.time_cells(space):
            console.print(f"timing {what}", highlight=False)
    states, estimate = driver.outlook(space)
    console.print(_matrix(space))
    todo = [state for state in states if state.stage != "finished"]
    console.print(f"To do: {len(todo)} of {len(states)} cells.", highlight=False)
    if again:
        console.print(f"{len(again)} finished cells are scored again, as metrics or test sets have changed.")
    if not todo:
        return
    if estimate.hours is None:
        console.print(
            f"Time and disk are not known for {', '.join(estimate.unknown)}: prepare with --until prepare, then "
            "--dry-run --time-epoch.",
            highlight=False,
        )
        return
    lanes = max(1, len(options.gpus) or options.cores // space.spec.resources.cpus)
    lanes = min(lanes if options.executor == "local" else options.jobs, len(todo))
    console.print(
        f"Trainings take about {_hours(estimate.hours)} one after the other, {_hours(estimate.hours / lanes)} with "
        f"{lanes} at a time; models about {estimate.disk_bytes / 1e9:.2f} GB.",
        highlight=False,
    )
    checks.check_space(space.root, estimate.disk_bytes)


def _hours(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{hours * 3600:.0f} s"


def _conclude(
    space: Workspace,
    states: Sequence[State],
    stopped: bool,
    log: Path | None,
    file: Path,
    seconds: float,
    options: Options,
    small: bool,
) -> None:
    """Say what came of a run; exit code 1 where cells have failed, 130 where it was stopped."""
    finished = sum(state.stage == "finished" for state in states)
    trained = sum(state.stage in ("finished", "trained") for state in states)
    for state in states:
        if state.stage == "failed":
            print(f"failed: {state.cell}: {state.failure} ({state.attempts} attempts)", file=sys.stderr)
    place = "" if space.root == work_folder(file, None) else f" --work {space.root}"
    again = f"nnunet-ext benchmark run {file}{' --small' if small else place}"
    if stopped:
        typer.echo(f"Stopped with {finished} of {len(states)} cells finished; the same command goes on from here.")
        raise typer.Exit(130)
    if log is None:
        typer.echo(f"Nothing is left to do: {trained if options.until else finished} of {len(states)} cells.")
    elif options.until == "prepare":
        typer.echo(f"All datasets are prepared; next: {again}")
    elif options.until == "train":
        typer.echo(f"{trained} of {len(states)} cells are trained, after {_hours(seconds / 3600)}; next: {again}")
    else:
        typer.echo(f"{finished} of {len(states)} cells are finished, after {_hours(seconds / 3600)}.")
    if options.until is None:
        typer.echo(f"Next: nnunet-ext benchmark report {file}{place}")
    done = {None: finished, "train": trained, "prepare": len(states)}[options.until]
    if done < len(states):
        typer.echo(f"Mend what failed, and run again. The engine's log: {log}")
        raise typer.Exit(1)
