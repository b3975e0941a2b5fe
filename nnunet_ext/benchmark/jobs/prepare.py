"""A dataset made ready: converted, planned and preprocessed by the stock commands, split, options of arms in plans."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nnunet_ext.benchmark import fingerprint
from nnunet_ext.benchmark.failures import STOPPED, classify
from nnunet_ext.benchmark.jobs.child import Stop
from nnunet_ext.benchmark.matrix import arm_of, plans_with_options, preparations
from nnunet_ext.benchmark.plan_changes import change, check_changes
from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.scores import conventions_of
from nnunet_ext.benchmark.spec import DEFAULT_PLANS, Dataset, Plans
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, write_text

_LOG = "prepare.log"


class _StoppedError(Exception):
    """A command was asked to stop."""


def prepare(space: Workspace, dataset: Dataset) -> int:
    """Make a dataset ready for all cells; what is there already is left alone.

    Returns:
        The exit code, as of :func:`~nnunet_ext.benchmark.jobs.cell.run_step`.

    Raises:
        UserError: something is missing, or a command failed; the sentence names its log.
    """
    target = space.prepared(dataset.key)
    make_folder(target.parent)
    if space.run.pretended is not None:
        _declare(space, dataset.key, target)
        return 0
    with _alone(dataset), FileLock(target.parent / ".lock"), Stop().listening() as stop:
        commands = _Commands(stop, target.parent / _LOG, space.spec.resources.cpus)
        try:
            name = convert(dataset, commands)
            folder = _plan(space, name, commands)
        except _StoppedError:
            return STOPPED
        _split(folder, name)
        for plans in space.spec.all_plans:
            _write_options(space, folder, plans.name)
    _declare(space, name, target)
    return 0


@contextmanager
def _alone(dataset: Dataset) -> Iterator[None]:
    """No other benchmark prepares the dataset, or one it is made from, meanwhile: half of it would pass for whole."""
    folder = require_folder("nnUNet_preprocessed")
    make_folder(folder)
    if not os.access(folder, os.W_OK):  # all is there already, or preparing fails in its own words
        yield
        return
    with ExitStack() as held:
        for number in sorted({dataset.id, *(part.id for part in dataset.after)}):  # in one order, lest two block
            lock = FileLock(folder / f".nnunet_ext_dataset_{number:03d}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"Another benchmark prepares dataset {number}: waiting for it ...", flush=True)
                lock.acquire()
            held.callback(lock.release)
        yield


def _declare(space: Workspace, name: str, target: Path) -> None:
    """Say that all is ready, and for what: a benchmark may be extended."""
    write_text(target, json.dumps({"dataset": name, "for": preparations(space.spec)}, indent=2) + "\n")


class _Commands:
    """Commands of this environment, in turn, with their output in one log."""

    def __init__(self, stop: Stop, log: Path, cpus: int) -> None:
        self.stop, self.log, self.cpus = stop, log, cpus
        self.environment = dict(os.environ)
        if self.environment.get("nnUNet_n_proc_DA") == "0":  # planning takes it for a number of threads
            del self.environment["nnUNet_n_proc_DA"]

    def run(self, *command: object) -> None:
        """Run one.

        Raises:
            _StoppedError: it was asked to stop.
            UserError: the command failed.
        """
        words = [str(word) for word in command]
        beside = Path(sys.executable).parent / words[0]
        executable = str(beside) if beside.exists() else shutil.which(words[0])
        if executable is None:
            raise UserError(f"The command {words[0]} was not found: is nnunet_ext installed in this environment?")
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"$ {' '.join(words)}\n")
        start = self.log.stat().st_size
        ended = self.stop.run([executable, *words[1:]], self.log, self.environment)
        if ended.asked_to_stop:
            raise _StoppedError
        text = self.log.read_bytes()[start:].decode(errors="replace")
        failure = classify(ended.exit_code, text)
        if failure is not None:
            raise UserError(f"{words[0]} failed ({failure.kind}: {failure.message}), see {self.log}.")


def convert(dataset: Dataset, commands: _Commands) -> str:
    """Name of a dataset in ``nnUNet_raw``, converted before where it is not there.

    Raises:
        UserError: it is neither there nor can be converted.
    """
    raw = require_folder("nnUNet_raw")
    there = sorted(path for path in raw.glob(f"{dataset.name or f'Dataset{dataset.id:03d}_*'}") if path.is_dir())
    if not there and dataset.convert is not None:
        for part in dataset.after:
            convert(part, commands)
        source = [] if dataset.source is None else [dataset.source]
        commands.run(
            "nnunet-ext", "convert", dataset.convert, *source, "-d", dataset.id, "-np", commands.cpus, *dataset.options
        )
    return find_dataset(raw, dataset.name or dataset.key)


def _plan(space: Workspace, name: str, commands: _Commands) -> Path:
    """Plan and preprocess what is not."""
    number = str(int(name[len("Dataset") :][:3]))
    folder = require_folder("nnUNet_preprocessed") / name
    configurations = space.spec.configurations
    if not (folder / "dataset_fingerprint.json").is_file() or not (folder / "dataset.json").is_file():
        commands.run(
            "nnUNetv2_extract_fingerprint",
            "-d",
            number,
            "-np",
            commands.cpus,
            "--verify_dataset_integrity",
            "--no_pbar",
        )
    wanted = space.spec.all_plans
    for plans in sorted(wanted, key=lambda one: (one.derived_from is not None) + (one.view is not None)):
        file = folder / f"{plans.name}.json"
        if not file.is_file():
            if plans.derived_from == DEFAULT_PLANS and not (folder / f"{DEFAULT_PLANS}.json").is_file():
                commands.run("nnUNetv2_plan_experiment", "-d", number)
            _make_plans(plans, folder, number, commands)
            together = [one for one in wanted if one.view and one.derived_from == plans.derived_from]
            for one in together if plans.view else [plans]:  # both views are made by one command
                made = folder / f"{one.name}.json"
                try:
                    _change_plans(one, made, configurations)
                except UserError:
                    made.unlink()  # a next attempt would take it for changed
                    raise
        content = json.loads(file.read_text(encoding="utf-8"))
        for configuration in configurations:
            data = folder / _data_identifier(content, configuration, file)
            check_changes(space.spec.name, file, plans, [configuration])  # an attempt may have ended half-way
            if len(_cases(data)) < _labelled_cases(name):
                commands.run(
                    "nnUNetv2_preprocess", "-d", number, "-plans_name", plans.name, "-c", configuration, "-np",
                    commands.cpus, "--no_pbar",
                )  # fmt: skip
        if (require_folder("nnUNet_raw") / name / "imagesUn").is_dir():
            chosen = [word for configuration in configurations for word in ("-c", configuration)]
            commands.run(
                "nnunet-ext", "preprocess-unlabelled", "-d", number, "-p", plans.name, *chosen, "-np", commands.cpus
            )
    return folder


def _make_plans(plans: Plans, folder: Path, number: str, commands: _Commands) -> None:
    """Let nnU-Net plan, copy other plans, or turn them."""
    file = folder / f"{plans.name}.json"
    if plans.view is not None:
        commands.run("nnunet-ext", "views", "-d", number, "-p", plans.derived_from)
    elif plans.derived_from is None or plans.spacing is not None:
        command = ["nnUNetv2_plan_experiment", "-d", number]
        command += ["-pl", plans.planner] if plans.planner else []
        command += ["-overwrite_target_spacing", *map(str, plans.spacing)] if plans.spacing else []
        command += ["-overwrite_plans_name", plans.name] if plans.name != DEFAULT_PLANS else []
        commands.run(*command)
    else:
        source = folder / f"{plans.derived_from}.json"
        if not source.is_file():
            raise UserError(
                f"There is no {source}, which plans {plans.name} are made from: name it under 'plans:' too."
            )
        write_text(file, source.read_text(encoding="utf-8"))


def _change_plans(plans: Plans, file: Path, configurations: tuple[str, ...]) -> None:
    """Make the changes that are asked for."""
    content = json.loads(file.read_text(encoding="utf-8"))
    content["plans_name"] = plans.name
    for configuration in configurations:
        own = content["configurations"].get(configuration)
        if own is not None and "architecture" in own:
            change(own, plans)
    write_text(file, json.dumps(content, indent=4))


def _data_identifier(plans: dict[str, Any], configuration: str, file: Path) -> str:
    known = plans["configurations"]
    if configuration not in known:
        raise UserError(f"{file} has no configuration {configuration}: it has {', '.join(known)}.")
    own = known[configuration]
    while "data_identifier" not in own:
        own = known[own["inherits_from"]]
    return str(own["data_identifier"])


def _cases(data: Path) -> list[Path]:
    return [*data.glob("*.pkl")]


def _labelled_cases(name: str) -> int:
    folder = require_folder("nnUNet_raw") / name
    return int(json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["numTraining"])


def _split(folder: Path, name: str) -> None:
    """Write nnU-Net's own split where there is none: trainings that start together would write it at once."""
    file = folder / "splits_final.json"
    if file.is_file():
        return
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    number = _labelled_cases(name)  # another configuration may not be whole
    first = next(path for path in sorted(folder.iterdir()) if path.is_dir() and len(_cases(path)) >= number)
    cases = sorted(path.stem for path in _cases(first))
    if len(cases) < 5:
        raise UserError(f"{name} has {len(cases)} cases, too few for five folds: write {file} yourself.")
    split = [
        {part: [str(case) for case in cases] for part, cases in fold.items()}
        for fold in generate_crossval_split(cases, seed=12345, n_splits=5)
    ]
    write_text(file, json.dumps(split, indent=4))


def _write_options(space: Workspace, folder: Path, plans: str) -> None:
    """Plans files that hold the options of arms."""
    from nnunet_ext.training.options import with_options

    for arm in space.spec.arms:
        if not arm.options or (arm.plans or plans) != plans:
            continue
        name = plans_with_options(arm, plans)
        content = json.loads((folder / f"{plans}.json").read_text(encoding="utf-8"))
        write_text(folder / f"{name}.json", json.dumps(with_options(content, arm.trainer, arm.options, name), indent=4))


def fingerprint_of_data(space: Workspace, cell: Cell, known: dict[Path, str] | None = None) -> dict[str, str]:
    """What a cell is made from, as of now: all fields of its fingerprint but the device.

    Args:
        space: the work folder.
        cell: the cell.
        known: hashes of folders, which cells share; those that are not there yet are added.

    Raises:
        UserError: a file is missing, or the split has no such fold.
    """
    known = {} if known is None else known

    from nnunet_ext import __version__

    folder = require_folder("nnUNet_preprocessed") / cell.dataset
    plans_file = folder / f"{plans_with_options(arm_of(space.spec, cell), cell.plans)}.json"
    try:
        plans = json.loads(plans_file.read_text(encoding="utf-8"))
        data = folder / _data_identifier(plans, cell.configuration, plans_file)
        split = json.loads((folder / "splits_final.json").read_text(encoding="utf-8"))
        for place, ends_only in ((data, True), (folder / "gt_segmentations", False)):
            if place not in known:
                files = [path for path in place.iterdir() if path.is_file()]
                known[place] = fingerprint.of_files(place, files, ends_only)
        if cell.fold >= len(split):
            raise UserError(f"{folder / 'splits_final.json'} has {len(split)} folds, so no fold {cell.fold}.")
        return {
            "split": fingerprint.of_data(split[cell.fold]),
            "plans": fingerprint.of_data(plans),
            "preprocessed": known[data],
            "dataset_json": fingerprint.of_file(folder / "dataset.json"),
            "labels": known[folder / "gt_segmentations"],
            "metrics": metrics_fingerprint(space),
            "nnunetv2": fingerprint.version("nnunetv2"),
            "nnunet_ext": __version__,
            "torch": fingerprint.version("torch"),
            "python": ".".join(map(str, sys.version_info[:3])),
        }
    except OSError as error:
        raise UserError(
            f"{cell.dataset} is not whole ({error}): remove {space.prepared(cell.dataset)} and run again."
        ) from error


def metrics_fingerprint(space: Workspace) -> str:
    """Hash of how predictions are scored."""
    spec = space.spec
    return fingerprint.of_metrics(conventions_of(spec), spec.merged, spec.metrics, spec.postprocessing)
