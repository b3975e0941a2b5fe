"""The file of a benchmark: read, and checked as far as that needs no data."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from nnunet_ext.benchmark.spec import (
    CASCADE,
    DEFAULT_PLANS,
    ENSEMBLE,
    FIRST_STAGE,
    FUSIONS,
    MAY_DIFFER,
    POSTPROCESSINGS,
    PRECISIONS,
    Arm,
    Dataset,
    Member,
    Plans,
    Resources,
    Spec,
    TestSet,
)
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")  # folders, shells and schedulers take these without quotes


def load(path: Path) -> Spec:
    """Read a benchmark file.

    Raises:
        UserError: it cannot be read, or something in it is not what it must be.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(
            f"cannot read {path} ({error.strerror}): nnunet-ext benchmark init writes an example."
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file: {' '.join(str(error).split())}.") from error
    return parse(content, str(path), path.resolve().parent)


def parse(content: Any, where: str, folder: Path) -> Spec:
    """Read the content of a benchmark file, or of ``benchmark.json``.

    Args:
        content: plain data.
        where: the file, for messages.
        folder: what relative paths are relative to.

    Raises:
        UserError: something in it is not what it must be; the sentence names it.
    """
    read = _Reader(where)
    content = read.table(content, "the file")
    known = [f.name for f in fields(Spec)]
    read.no_others(content, [*known, "plans_details"], "key")
    for needed in ("datasets", "arms"):
        if not content.get(needed):
            raise UserError(f"{where} names no {needed}: add some under '{needed}:'.")
    plans = content.get("plans_details") or read.items(content, "plans", [DEFAULT_PLANS])
    spec = Spec(
        name=read.name(content.get("name", Path(where).stem), "name"),
        datasets=tuple(_dataset(read, entry, folder) for entry in read.items(content, "datasets")),
        arms=tuple(_arm(read, name, entry) for name, entry in read.table(content["arms"], "arms").items()),
        configurations=tuple(read.names(content, "configurations", ("3d_fullres",))),
        plans=tuple(_plans(read, entry) for entry in plans),
        epochs=read.count(content, "epochs", None, 1),
        iterations=read.count(content, "iterations", None, 1),
        folds=_folds(read, content),
        seeds=tuple(read.counts(content, "seeds", (0,))),
        metrics=tuple(read.names(content, "metrics", ("Dice", "NSD_2mm", "HD95"))),
        preset=read.text(content, "preset", "papers"),
        merged={
            str(name): tuple(map(str, read.listed(parts, f"merged: {name}")))
            for name, parts in read.table(content.get("merged") or {}, "merged").items()
        },
        test_sets=tuple(
            _test_set(read, name, entry, folder)
            for name, entry in read.table(content.get("test_sets") or {}, "test_sets").items()
        ),
        resources=_resources(read, content.get("resources") or {}),
        save_every=read.count(content, "save_every", 10, 1) or 10,
        mirroring=read.switch(content, "mirroring", True),
        precision=read.one_of(content, "precision", PRECISIONS),
        postprocessing=read.one_of(content, "postprocessing", POSTPROCESSINGS),
        question=read.text(content, "question", ""),
        answer=read.text(content, "answer", ""),
        published=tuple(read.table(entry, "published") for entry in read.items(content, "published", [])),
    )
    _check_whole(spec, where)
    return spec


def _check_whole(spec: Spec, where: str) -> None:
    """What no part of a specification shows alone."""
    for words, values in (
        ("dataset", [dataset.key for dataset in spec.datasets]),
        ("configuration", spec.configurations),
        ("plans", [plans.name for plans in spec.plans]),
        ("fold", spec.folds),
        ("seed", spec.seeds),
        ("metric", spec.metrics),
    ):
        twice = sorted({str(value) for value in values if list(values).count(value) > 1})
        if twice:
            raise UserError(f"{where} names the {words} {twice[0]} twice: leave one out.")
    if CASCADE in spec.configurations and FIRST_STAGE not in spec.configurations:
        raise UserError(f"{where}: {CASCADE} follows {FIRST_STAGE}: list it under 'configurations:' too.")
    runs: dict[Any, str] = {}
    for arm in spec.arms:
        _check_places(arm, spec, where)
        length = arm.epochs, arm.iterations
        run = (arm.trainer, sorted(arm.options.items(), key=str), length, arm.plans, arm.ensemble, arm.fuse)
        other = runs.setdefault(repr(run), arm.name)
        if other != arm.name:
            raise UserError(f"{where}: the arms {other} and {arm.name} are the same run: leave one out.")
    _check_plans(spec, where)
    for test in spec.test_sets:
        if test.dataset is None and len(spec.datasets) > 1:
            raise UserError(f"{where}: test set {test.name} needs 'dataset:', as there are several datasets.")


def _check_places(arm: Arm, spec: Spec, where: str) -> None:
    """Where an arm is trained, and what an ensemble is of."""
    for words, own, known in (
        ("fold", arm.folds, spec.folds),
        ("dataset", arm.datasets, [dataset.id for dataset in spec.datasets]),
        ("configuration", arm.configurations, spec.configurations),
    ):
        if odd := [one for one in own or () if one not in known]:
            raise UserError(
                f"{where}: arm {arm.name} has the {words} {odd[0]}, which is not among the {words}s: add it there."
            )
    arms = {one.name: one for one in spec.arms}
    for member in arm.ensemble:
        one = arms.get(member.arm)
        if one is None or one.ensemble:
            trained = ", ".join(name for name, other in arms.items() if not other.ensemble)
            raise UserError(f"{where}: {arm.name} is an ensemble of {member.arm}, which is no arm among {trained}.")
        for dataset, configuration, fold in product(spec.datasets, spec.configurations, spec.folds):
            place = member.configuration or configuration
            is_there = place in spec.configurations and one.has(dataset, place, fold)
            if arm.has(dataset, configuration, fold) and not is_there:
                raise UserError(
                    f"{where}: ensemble {arm.name} needs {member.arm} in {place}, fold {fold}, which is not in the "
                    "matrix: restrict the ensemble, or add it."
                )


def _check_plans(spec: Spec, where: str) -> None:
    for plans in spec.plans:
        if plans.derived_from == plans.name:
            raise UserError(f"{where}: plans {plans.name} are derived from themselves: give them another name.")
        changes = (plans.spacing, plans.batch_size, plans.patch_size, plans.features)
        if any(change is not None for change in changes) and plans.derived_from is None:
            raise UserError(f"{where}: plans {plans.name} have changes: say 'from:' which plans they are made.")
    if not spec.matrix_plans:
        raise UserError(f"{where}: all plans are those of single arms: list {DEFAULT_PLANS} under 'plans:' too.")
    for plans in spec.plans:
        if plans.view is not None and plans.name != f"{plans.derived_from}_view{plans.view}":
            expected = f"{plans.derived_from or DEFAULT_PLANS}_view{plans.view}"
            raise UserError(f"{where}: plans {plans.name} are view {plans.view}: call them {expected}, with 'from:'.")


def _dataset(read: _Reader, entry: Any, folder: Path) -> Dataset:
    if isinstance(entry, (int, str)) and not isinstance(entry, bool):
        entry = {"id": entry} if str(entry).isdecimal() else {"name": str(entry)}
    entry = read.table(entry, "datasets")
    read.no_others(entry, [f.name for f in fields(Dataset)], "key of a dataset")
    number, name = read.count(entry, "id", None, 1), entry.get("name")
    if number is None and name is None:
        raise UserError(f"{read.where}: a dataset has neither id nor name: {entry!r}.")
    if name is not None and not re.fullmatch(r"Dataset\d{3}_\S+", str(name)):
        raise UserError(f"{read.where}: the name of a dataset is like Dataset091_X, got {name!r}.")
    convert, source = entry.get("convert"), entry.get("source")
    if source is not None and convert is None:
        raise UserError(f"{read.where}: dataset {name or number} has a source, but no 'convert:'.")
    return Dataset(
        number if number is not None else int(str(name)[len("Dataset") :][:3]),
        None if name is None else str(name),
        None if convert is None else str(convert),
        None if source is None else _path(folder, source),
        tuple(map(str, read.listed(entry.get("options") or [], "options of a dataset"))),
        tuple(_dataset(read, part, folder) for part in read.listed(entry.get("after") or [], "after of a dataset")),
    )


def _plans(read: _Reader, entry: Any) -> Plans:
    if isinstance(entry, str):
        return Plans(read.name(entry, "plans"))
    entry = dict(read.table(entry, "plans"))
    if "from" in entry:
        entry["derived_from"] = entry.pop("from")
    read.no_others(entry, ["from", *(f.name for f in fields(Plans))], "key of plans")
    tuples: dict[str, tuple[Any, ...] | None] = {}
    for key, kind in (("spacing", float), ("patch_size", int), ("features", int)):
        values = entry.get(key)
        try:
            tuples[key] = None if values is None else tuple(kind(value) for value in read.listed(values, key))
        except (TypeError, ValueError):
            raise UserError(f"{read.where}: {key} of plans is a list of numbers, got {values!r}.") from None
        if any(value <= 0 for value in tuples[key] or ()):
            raise UserError(f"{read.where}: {key} of plans is a list of numbers above 0, got {values!r}.")
    derived = entry.get("derived_from")
    return Plans(
        read.name(entry.get("name"), "name of plans"),
        entry.get("planner"),
        None if derived is None else read.name(derived, "from"),
        tuples["spacing"],
        read.count(entry, "batch_size", None, 1),
        tuples["patch_size"],
        tuples["features"],
        _view(read, entry),
    )


def _view(read: _Reader, entry: Mapping[Any, Any]) -> int | None:
    view = read.count(entry, "view", None, 2)
    if view is not None and view > 3:
        raise UserError(f"{read.where}: view of plans is 2 or 3, got {view}: the plans themselves are view 1.")
    return view


def _arm(read: _Reader, name: Any, entry: Any) -> Arm:
    name = read.name(name, "name of an arm")
    entry = {"trainer": entry} if isinstance(entry, str) else read.table(entry, f"arm {name}")
    read.no_others(entry, [f.name for f in fields(Arm)], f"key of arm {name}")
    members = _members(read, entry, name)
    if members and entry.get("trainer", ENSEMBLE) != ENSEMBLE:
        raise UserError(f"{read.where}: arm {name} has a trainer and an ensemble: leave one out.")
    if members:
        entry = {**entry, "trainer": ENSEMBLE}
    if not isinstance(entry.get("trainer"), str):
        raise UserError(
            f"{read.where}: arm {name} has no trainer: write '{name}: TRAINER' or '{name}: {{trainer: ...}}'."
        )
    if re.search(r"_\d+(epochs?|iters?)$", entry["trainer"]):
        raise UserError(
            f"{read.where}: arm {name} has a run length in its trainer {entry['trainer']}: give it by 'epochs:' and "
            "'iterations:'."
        )
    differs = read.listed(entry.get("differs") or [], f"differs of arm {name}")
    if odd := [value for value in differs if value not in MAY_DIFFER]:
        raise UserError(f"{read.where}: arm {name} may differ in plans and preprocessed alone, not in {odd[0]!r}.")
    return Arm(
        name,
        entry["trainer"],
        dict(read.table(entry.get("options") or {}, f"options of arm {name}")),
        read.count(entry, "epochs", None, 1),
        read.count(entry, "iterations", None, 1),
        None if entry.get("plans") is None else read.name(entry["plans"], f"plans of arm {name}"),
        tuple(differs),
        None if entry.get("folds") is None else tuple(read.counts(entry, "folds", ())),
        None if entry.get("datasets") is None else tuple(read.counts(entry, "datasets", ())),
        None if entry.get("configurations") is None else tuple(read.names(entry, "configurations", ())),
        members,
        read.one_of(entry, "fuse", FUSIONS),
    )


def _members(read: _Reader, entry: Mapping[Any, Any], name: str) -> tuple[Member, ...]:
    made = []
    for one in read.items(entry, ENSEMBLE):
        member = {"arm": one} if isinstance(one, str) else read.table(one, f"ensemble of arm {name}")
        read.no_others(member, [f.name for f in fields(Member)], f"key of a member of {name}")
        made.append(Member(read.text(member, "arm", ""), read.text(member, "configuration", "") or None))
    if ENSEMBLE in entry and len(made) < 2:
        raise UserError(f"{read.where}: ensemble {name} needs two members or more.")
    return tuple(made)


def _test_set(read: _Reader, name: Any, entry: Any, folder: Path) -> TestSet:
    name = read.name(name, "name of a test set")
    entry = read.table(entry, f"test set {name}")
    read.no_others(entry, [f.name for f in fields(TestSet)], f"key of test set {name}")
    for needed in ("images", "labels"):
        if not isinstance(entry.get(needed), str):
            raise UserError(f"{read.where}: test set {name} has no folder '{needed}:'.")
    dataset = entry.get("dataset")
    return TestSet(
        name, _path(folder, entry["images"]), _path(folder, entry["labels"]), None if dataset is None else str(dataset)
    )


def _resources(read: _Reader, entry: Any) -> Resources:
    entry = read.table(entry, "resources")
    read.no_others(entry, [f.name for f in fields(Resources)], "resource")
    default = Resources()
    made = Resources(
        read.count(entry, "cpus", default.cpus, 1) or 1,
        read.number(entry, "memory_gb", default.memory_gb),
        read.count(entry, "gpus", default.gpus, 0) or 0,
        read.number(entry, "hours", default.hours),
    )
    if made.gpus > 1:
        raise UserError(f"{read.where}: a training uses one GPU at most, got gpus: {made.gpus}.")
    return made


def _folds(read: _Reader, content: Mapping[str, Any]) -> tuple[int, ...]:
    folds = content.get("folds")
    if folds == "all" or (isinstance(folds, list) and "all" in folds):
        raise UserError(f"{read.where}: folds takes numbers alone, as fold all has no validation cases of its own.")
    return tuple(read.counts(content, "folds", (0, 1, 2, 3, 4)))


def _path(folder: Path, text: Any) -> Path:
    """A path; variables of the environment that are set stand for their values."""
    return (folder / Path(os.path.expandvars(str(text))).expanduser()).absolute()


class _Reader:
    """Values of their kind, or a sentence that names the file and the key."""

    def __init__(self, where: str) -> None:
        self.where = where

    def table(self, value: Any, what: str) -> Mapping[Any, Any]:
        if not isinstance(value, Mapping):
            raise UserError(f"{self.where}: {what} must be a table of 'key: value', got {value!r}.")
        return value

    def listed(self, value: Any, what: str) -> Sequence[Any]:
        if not isinstance(value, list):
            raise UserError(f"{self.where}: {what} must be a list, got {value!r}.")
        return value

    def items(self, content: Mapping[str, Any], key: str, default: Sequence[Any] = ()) -> Sequence[Any]:
        value = content.get(key)
        return default if value is None else self.listed(value, key)

    def no_others(self, content: Mapping[Any, Any], known: Iterable[str], what: str) -> None:
        known = list(known)
        for key in content:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, 1)
                advice = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}."
                raise UserError(f"{self.where}: {key!r} is no {what}: {advice}")

    def name(self, value: Any, what: str) -> str:
        if not _NAME.fullmatch(str(value)):
            raise UserError(f"{self.where}: {what} has letters, digits and any of _ . + - alone, got {value!r}.")
        return str(value)

    def names(self, content: Mapping[str, Any], key: str, default: Sequence[str]) -> list[str]:
        found = [self.name(value, key) for value in self.items(content, key, default)]
        if not found:
            raise UserError(f"{self.where}: {key} is an empty list: name one or leave the key out.")
        return found

    def text(self, content: Mapping[str, Any], key: str, default: str) -> str:
        value = content.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.where}: {key} must be a text, got {value!r}.")
        return value or default

    def one_of(self, content: Mapping[str, Any], key: str, known: Sequence[str]) -> str:
        """One of some words, the first of which is the default."""
        value = content.get(key, known[0])
        if value not in known:
            raise UserError(f"{self.where}: {key} is one of {', '.join(known)}, got {value!r}.")
        return str(value)

    def switch(self, content: Mapping[str, Any], key: str, default: bool) -> bool:
        value = content.get(key, default)
        if not isinstance(value, bool):
            raise UserError(f"{self.where}: {key} must be true or false, got {value!r}.")
        return value

    def count(self, content: Mapping[str, Any], key: str, default: int | None, at_least: int) -> int | None:
        value = content.get(key)
        return default if value is None else self._count(value, key, at_least)

    def counts(self, content: Mapping[str, Any], key: str, default: Sequence[int]) -> list[int]:
        found = [self._count(value, key, 0) for value in self.items(content, key, default)]
        if not found:
            raise UserError(f"{self.where}: {key} is an empty list: name one or leave the key out.")
        return found

    def _count(self, value: Any, key: str, at_least: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise UserError(f"{self.where}: {key} must be a whole number from {at_least}, got {value!r}.")
        return value

    def number(self, content: Mapping[str, Any], key: str, default: float) -> float:
        value = content.get(key, default)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < float("inf"):
            raise UserError(f"{self.where}: {key} must be a number above 0, got {value!r}.")
        return float(value)


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the last would win without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    keys = [loader.construct_object(key, deep=True) for key in own]
    for position, key in enumerate(keys):
        if key in keys[:position]:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)  # keys of a merge (<<) yield to those of the table itself


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)

EXAMPLE = """\
# A benchmark of nnunet_ext: trainers side by side on the same data, plans, folds and seeds.
#   nnunet-ext benchmark run {file} --dry-run     the matrix, what is to do, time and disk
#   nnunet-ext benchmark run {file}               do it, or go on after a stop
#   nnunet-ext benchmark status {file}            the matrix as a table
#   nnunet-ext benchmark report {file}            one page: report.html
name: {name}
question: Does the boundary term help?

datasets:
  - {{id: 4}}                                # in nnUNet_raw already
  # - {{id: 503, convert: lits, source: PATH}} # converted first, as by: nnunet-ext convert lits PATH -d 503
configurations: [3d_fullres]
plans: [nnUNetPlans]
  # - {{name: nnUNetResEncUNetMPlans, planner: nnUNetPlannerResEncM}}
  # - {{name: smallPlans, from: nnUNetPlans, batch_size: 2, features: [8, 16, 32, 64]}}

arms:                                      # the first one is what the others are compared with
  stock: nnUNetTrainer
  MLL: nnUNetTrainerMLL
  # MLL_mild: {{trainer: nnUNetTrainerMLL, options: {{boundary_weight: 0.1}}}}
  # stock_long: {{trainer: nnUNetTrainer, epochs: 500}}

epochs: 250                                # of all arms that do not say otherwise; without: the trainer's own
iterations: 250                            # an epoch
folds: [0, 1, 2, 3, 4]
seeds: [0]                                 # several: is the spread between arms larger than that within one?

metrics: [Dice, NSD_2mm, HD95]             # of nnunet-ext evaluate
preset: papers                             # conventions: papers, chaos, sliver07 or lits
# merged: {{kidneys: [right kidney, left kidney]}}   # classes scored as one besides
# test_sets: {{other_hospital: {{images: PATH, labels: PATH}}}}

resources: {{cpus: 4, memory_gb: 32, gpus: 1, hours: 48}}   # of one training
save_every: 10                             # epochs between checkpoints
"""


def write_example(path: Path) -> None:
    """Write a commented benchmark file.

    Raises:
        UserError: there is a file of that name.
    """
    if path.exists():
        raise UserError(f"{path} exists already: name another file, or delete it.")
    make_folder(path.parent)
    path.write_text(EXAMPLE.format(file=path.name, name=path.stem), encoding="utf-8")
