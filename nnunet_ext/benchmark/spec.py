"""A benchmark as its user writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

DEFAULT_PLANS = "nnUNetPlans"
CASCADE, FIRST_STAGE = "3d_cascade_fullres", "3d_lowres"
MAY_DIFFER = ("plans", "preprocessed")
ENSEMBLE = "ensemble"
FUSIONS = ("mean", "vote")
POSTPROCESSINGS = ("none", "largest_component")
PRECISIONS = ("auto", "bfloat16")


@dataclass(frozen=True)
class Dataset:
    """A dataset of nnU-Net, or what it is converted from.

    Attributes:
        id: number.
        name: ``Dataset091_X``; ``None`` until it is looked up.
        convert: a command of ``nnunet-ext convert`` that makes it.
        source: its SOURCE; relative paths are relative to the file, and $NAME is a variable of the environment.
        options: its further arguments.
        after: datasets that are converted before it, for example the parts of a union.
    """

    id: int
    name: str | None = None
    convert: str | None = None
    source: Path | None = None
    options: tuple[str, ...] = ()
    after: tuple[Dataset, ...] = ()

    @property
    def key(self) -> str:
        """The number as nnU-Net's commands take it."""
        return str(self.id)


@dataclass(frozen=True)
class Plans:
    """Plans of the matrix: there already, planned by nnU-Net, or others with changes.

    Attributes:
        name: of the plans file.
        planner: class of nnU-Net that makes them, for example ``nnUNetPlannerResEncM``.
        derived_from: plans that these are a copy of, with the changes below.
        spacing: in mm, slices first.
        batch_size: cases an iteration.
        patch_size: voxels, slices first; for 2d the last two count.
        features: of the stages, from the finest; a plan of fewer stages takes the first of them.
        view: 2 or 3: made by ``nnunet-ext views``, of ``derived_from``, whose name they have with ``_view2`` behind.
    """

    name: str = DEFAULT_PLANS
    planner: str | None = None
    derived_from: str | None = None
    spacing: tuple[float, ...] | None = None
    batch_size: int | None = None
    patch_size: tuple[int, ...] | None = None
    features: tuple[int, ...] | None = None
    view: int | None = None

    @property
    def changes_preprocessing(self) -> bool:
        """Whether they need preprocessed data of their own."""
        return self.spacing is not None


@dataclass(frozen=True)
class Member:
    """An arm in an ensemble; without a configuration in that of the ensemble."""

    arm: str
    configuration: str | None = None


@dataclass(frozen=True)
class Arm:
    """What is compared: a trainer with its options, or several arms together.

    Attributes:
        name: in tables.
        trainer: class, without run length; :data:`ENSEMBLE` for an ensemble.
        options: values by name of the option.
        epochs: run length, where it differs from that of the benchmark.
        iterations: an epoch, likewise.
        plans: plans of its own instead of those of the matrix.
        differs: fields of the fingerprint in which it may differ from other arms.
        folds: those it is trained in, where they are not those of the benchmark.
        datasets: ids of those it is trained on, likewise.
        configurations: those it is trained in, likewise.
        ensemble: what it is an ensemble of; it is not trained.
        fuse: how: by the ``mean`` of the probabilities, or by ``vote``.
    """

    name: str
    trainer: str
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    iterations: int | None = None
    plans: str | None = None
    differs: tuple[str, ...] = ()
    folds: tuple[int, ...] | None = None
    datasets: tuple[int, ...] | None = None
    configurations: tuple[str, ...] | None = None
    ensemble: tuple[Member, ...] = ()
    fuse: str = "mean"

    def has(self, dataset: Dataset, configuration: str, fold: int) -> bool:
        """Whether it is trained there."""
        chosen = ((self.folds, fold), (self.datasets, dataset.id), (self.configurations, configuration))
        return all(own is None or one in own for own, one in chosen)


@dataclass(frozen=True)
class TestSet:
    """An external test set: images as nnU-Net predicts them, and their labels."""

    __test__ = False  # not for pytest

    name: str
    images: Path
    labels: Path
    dataset: str | None = None


@dataclass(frozen=True)
class Resources:
    """What a training job gets.

    Attributes:
        cpus: cores. With 1, batches are drawn in the training process, and a run can be repeated exactly.
        memory_gb: main memory.
        gpus: 0 or 1.
        hours: time limit of a job on a cluster; a job that reaches it goes on in the next one.
    """

    cpus: int = 4
    memory_gb: float = 32.0
    gpus: int = 1
    hours: float = 48.0


@dataclass(frozen=True)
class Spec:
    """A whole benchmark; the fields are those of the YAML file, see ``docs/benchmark.md``."""

    name: str
    datasets: tuple[Dataset, ...]
    arms: tuple[Arm, ...]
    configurations: tuple[str, ...] = ("3d_fullres",)
    plans: tuple[Plans, ...] = (Plans(),)
    epochs: int | None = None
    iterations: int | None = None
    folds: tuple[int, ...] = (0, 1, 2, 3, 4)
    seeds: tuple[int, ...] = (0,)
    metrics: tuple[str, ...] = ("Dice", "NSD_2mm", "HD95")
    preset: str = "papers"
    merged: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    test_sets: tuple[TestSet, ...] = ()
    resources: Resources = field(default_factory=Resources)
    save_every: int = 10
    mirroring: bool = True
    precision: str = "auto"
    postprocessing: str = "none"
    question: str = ""
    answer: str = ""
    published: tuple[Mapping[str, Any], ...] = ()

    @property
    def matrix_plans(self) -> tuple[Plans, ...]:
        """The plans that arms are trained with; those that an arm names are that arm's alone."""
        own = {arm.plans for arm in self.arms}
        return tuple(plans for plans in self.plans if plans.name not in own)

    @property
    def all_plans(self) -> tuple[Plans, ...]:
        """The plans that are listed, and those that arms name without."""
        listed = [plans.name for plans in self.plans]
        others = dict.fromkeys(arm.plans for arm in self.arms if arm.plans and arm.plans not in listed)
        return (*self.plans, *map(Plans, others))

    def plans_named(self, name: str) -> Plans:
        """The plans of this name; those that only an arm has are taken as they are."""
        return next((plans for plans in self.plans if plans.name == name), Plans(name))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for ``benchmark.json``; ``spec_file.parse`` gives the same benchmark again."""
        return {
            "name": self.name,
            "question": self.question,
            "answer": self.answer,
            "datasets": [_plain(dataset) for dataset in self.datasets],
            "configurations": list(self.configurations),
            "plans": [plans.name for plans in self.plans],
            "plans_details": [_plain(plans) for plans in self.plans],
            "arms": {arm.name: _plain(arm) for arm in self.arms},
            "epochs": self.epochs,
            "iterations": self.iterations,
            "folds": list(self.folds),
            "seeds": list(self.seeds),
            "metrics": list(self.metrics),
            "preset": self.preset,
            "merged": {name: list(parts) for name, parts in self.merged.items()},
            "test_sets": {test.name: _plain(test) for test in self.test_sets},
            "resources": _plain(self.resources),
            "save_every": self.save_every,
            "mirroring": self.mirroring,
            "precision": self.precision,
            "postprocessing": self.postprocessing,
            "published": [dict(entry) for entry in self.published],
        }


def _plain(part: Any) -> dict[str, Any]:
    """Fields as JSON has them, without those that are not set."""
    made: dict[str, Any] = {}
    for f in fields(part):
        value = getattr(part, f.name)
        if value is None or value in ((), {}):
            continue
        made[f.name] = _as_json(value)
    return made


def _as_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, (Dataset, Member)):
        return _plain(value)
    return str(value) if isinstance(value, Path) else value
