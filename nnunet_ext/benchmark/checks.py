"""Bad input, told in one sentence before any work starts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.matrix import cells_of, trainer_name
from nnunet_ext.benchmark.plan_changes import check_changes
from nnunet_ext.benchmark.records import METRICS, Record, read_records
from nnunet_ext.benchmark.scores import conventions_of, with_merged
from nnunet_ext.benchmark.spec import CASCADE, DEFAULT_PLANS, FIRST_STAGE, Dataset, Spec
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.core.environment import find_dataset, require_folder, require_nnunet
from nnunet_ext.core.errors import UserError

_PREDEFINED = ("2d", "3d_fullres", "3d_lowres")
_NNUNET_FOLDS = 5


def check_metrics(spec: Spec) -> None:
    """Metrics, preset and printed numbers; needs no data.

    Raises:
        UserError: one does not exist.
    """
    conventions_of(spec)
    names = [arm.name for arm in spec.arms]
    for entry in spec.published:
        if entry.get("arm") not in names:
            raise UserError(f"{spec.name}: published has the arm {entry.get('arm')}; there are {', '.join(names)}.")


def check_environment(spec: Spec, before: Spec | None = None) -> Spec:
    """Folders, datasets, trainers, options, folds and test sets.

    Args:
        spec: the benchmark.
        before: what was checked by an earlier run; trainers are not looked up again, which takes longest.

    Returns:
        The benchmark with the full names of the datasets that are there.

    Raises:
        UserError: something is missing or does not exist.
    """
    require_nnunet()
    raw, preprocessed = require_folder("nnUNet_raw"), require_folder("nnUNet_preprocessed")
    named = with_names(spec, raw)
    for dataset in named.datasets:
        if dataset.name is None:
            _check_conversion(spec, dataset)
        else:
            _check_dataset(spec, raw / dataset.name, preprocessed / dataset.name)
    if before is None or _runs(before) != _runs(spec):
        check_trainers(spec)
    for test in spec.test_sets:
        for folder in (test.images, test.labels):
            if not folder.is_dir():
                raise UserError(f"{spec.name}: test set {test.name} has no folder {folder}: mend its path.")
    return named


def _runs(spec: Spec) -> Any:
    return spec.arms, spec.configurations, spec.epochs, spec.iterations


def with_names(spec: Spec, raw: Path) -> Spec:
    """The benchmark with the full names of datasets that are in ``nnUNet_raw``."""
    from dataclasses import replace

    found = []
    for dataset in spec.datasets:
        name = dataset.name
        there = name is not None and (raw / name).is_dir()
        if not there and not (dataset.convert is not None and not any(raw.glob(f"Dataset{dataset.id:03d}_*"))):
            name = find_dataset(raw, dataset.name or str(dataset.id))
        elif not there:
            name = None
        found.append(replace(dataset, name=name))
    return replace(spec, datasets=tuple(found))


def _check_conversion(spec: Spec, dataset: Dataset) -> None:
    from dataset_conversion.registry import CONVERTERS

    known = {converter.command: converter for converter in CONVERTERS}
    if dataset.convert not in known:
        raise UserError(f"{spec.name}: nnunet-ext convert has no {dataset.convert}: there are {', '.join(known)}.")
    if known[dataset.convert].has_source and dataset.source is None:
        raise UserError(f"{spec.name}: dataset {dataset.id} needs 'source:', what {dataset.convert} is converted from.")
    if dataset.source is not None and not dataset.source.exists():
        unset = re.search(r"\$\w+", str(dataset.source))
        advice = f"set {unset.group()[1:]} to its folder" if unset else "mend its path"
        raise UserError(f"{spec.name}: there is no {dataset.source}, the source of dataset {dataset.id}: {advice}.")
    for part in dataset.after:
        if not any(require_folder("nnUNet_raw").glob(f"Dataset{part.id:03d}_*")):
            _check_conversion(spec, part)


def _check_dataset(spec: Spec, raw: Path, preprocessed: Path) -> None:
    """A dataset that is there, as far as it is planned."""
    about = _json(raw / "dataset.json")
    if not isinstance(about.get("labels"), dict):
        raise UserError(f"{raw / 'dataset.json'} has no labels: is it an nnU-Net v2 dataset?")
    with_merged(about, spec.merged)
    splits = preprocessed / "splits_final.json"
    folds = len(_json(splits)) if splits.is_file() else _NNUNET_FOLDS
    for fold in spec.folds:
        if fold >= folds:
            where = splits if splits.is_file() else "nnU-Net's own split"
            raise UserError(f"{spec.name}: there is no fold {fold} of {raw.name}: {where} has folds 0 to {folds - 1}.")
    _check_cascade(spec, raw.name, folds)
    planned = {plans.name: plans for plans in spec.plans}
    for name in [plans.name for plans in spec.all_plans]:
        file = preprocessed / f"{name}.json"
        if file.is_file():
            known = _json(file).get("configurations", {})
            for configuration in spec.configurations:
                if configuration not in known:
                    raise UserError(
                        f"{spec.name}: {file} has no configuration {configuration}: it has {', '.join(known)}."
                    )
            if name in planned:
                check_changes(spec.name, file, planned[name], spec.configurations)
        elif name not in planned:
            raise UserError(f"{spec.name}: there is no {file}, which an arm trains with: list {name} under 'plans:'.")
        elif (source := planned[name].derived_from) is not None and source not in (*planned, DEFAULT_PLANS):
            if not (preprocessed / f"{source}.json").is_file() and planned[name].spacing is None:
                raise UserError(f"{spec.name}: plans {name} are made from {source}, which is not there: list it too.")
        elif source is None and name != DEFAULT_PLANS and planned[name].planner is None:
            raise UserError(f"{spec.name}: there is no {file}: say with 'planner:' or 'from:' how {name} are made.")


def check_trainers(spec: Spec) -> None:
    """Trainers and their options; imports nnU-Net.

    Raises:
        UserError: one does not exist, or an option does not fit.
    """
    from nnunet_ext.plugin.lookup import did_you_mean, find_trainer
    from nnunet_ext.training.base import ExtendedTrainer
    from nnunet_ext.training.options import checked, types_of, unknown

    for arm in spec.arms:
        if arm.ensemble:
            continue
        try:
            trainer = find_trainer(trainer_name(spec, arm))
        except AttributeError:
            raise UserError(f"{spec.name}, arm {arm.name}: {did_you_mean(arm.trainer)}") from None
        if not arm.options:
            continue
        if not issubclass(trainer, ExtendedTrainer):
            raise UserError(f"{spec.name}: arm {arm.name} has options, but {arm.trainer} is no trainer of nnunet_ext.")
        for name, value in arm.options.items():
            if name not in types_of(trainer.options_class):
                raise UserError(f"{spec.name}, arm {arm.name}: {unknown(trainer.options_class, name, arm.trainer)}")
            checked(trainer.options_class, name, value, f"arm {arm.name} of {spec.name}")


def check_results(space: Workspace) -> Iterator[Record]:
    """Results that are there and can stay.

    Yields:
        Those with other metrics than those that are asked for now, or without a test set: they must be scored again.

    Raises:
        UserError: results are of another version or plan than what would be added to them.
    """
    from nnunet_ext.benchmark.jobs.prepare import fingerprint_of_data, metrics_fingerprint

    cells = set(cells_of(space.spec))
    folders: dict[Path, str] = {}
    for record in read_records(space.root):
        if record.cell not in cells or record.status != "finished" or space.run.pretended is not None:
            continue
        cell = record.cell
        found = fingerprint_of_data(space, cell, folders)
        for field in ("nnunetv2", "torch", "split", "plans", "dataset_json", "labels", "preprocessed"):
            before, now = getattr(record.fingerprint, field), found[field]
            if before != now:
                what = f"{field} {before}, and here is {now}" if field in ("nnunetv2", "torch") else f"another {field}"
                raise UserError(
                    f"{space.root} has a result of {what} ({cell}): choose another folder with --work, or remove "
                    f"{cell.folder(space.root)} to train it again."
                )
        tests = [test.name for test in space.spec.test_sets if test.dataset in (None, cell.dataset)]
        tables = [METRICS, *(f"test_{name}.csv" for name in tests)]
        lacks = [name for name in tables if not (cell.folder(space.root) / name).is_file()]
        if lacks or record.fingerprint.metrics != metrics_fingerprint(space):
            yield record


def check_space(work: Path, needed_bytes: float) -> None:
    """Room on the disk.

    Raises:
        UserError: there is less than the estimate.
    """
    folder = next(parent for parent in (work, *work.parents) if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if needed_bytes > free:
        raise UserError(
            f"{folder} has {free / 1e9:.1f} GB left, and the cells to do need about {needed_bytes / 1e9:.1f} GB: make "
            "room, or choose another folder with --work."
        )


def _check_cascade(spec: Spec, name: str, folds: int) -> None:
    """The second stage of nnU-Net's cascade learns from the first one's predictions of all cases."""
    if CASCADE not in spec.configurations:
        return
    for words, own in (("the benchmark", spec.folds), *((f"arm {arm.name}", arm.folds) for arm in spec.arms)):
        if own is not None and len(set(own)) < folds:
            raise UserError(
                f"{spec.name}: {CASCADE} learns from the predictions of all {folds} folds of {name} by {FIRST_STAGE}, "
                f"but {words} has only {', '.join(map(str, own))}: list all."
            )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): convert or plan the dataset again.") from error
