"""What was asked of a benchmark, as far as its report needs it: the content of ``benchmark.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from nnunet_ext.benchmark import spec
from nnunet_ext.benchmark.records import SPECIFICATION
from nnunet_ext.benchmark.spec import MAY_DIFFER
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.metrics import METRICS


class Setting(NamedTuple):
    """Where arms are compared: a dataset, a configuration, plans, and the final validation or an external test set.

    Attributes:
        dataset: Full name.
        configuration: nnU-Net's configuration.
        plans: Name of the plans of the matrix.
        test_set: Name of an external test set, empty for the final validation.
    """

    dataset: str
    configuration: str
    plans: str
    test_set: str = ""

    @property
    def training(self) -> Setting:
        """The same without the test set: what was trained."""
        return self._replace(test_set="")

    @property
    def file_name(self) -> str:
        """For names of files and elements of a page."""
        return re.sub(r"[^A-Za-z0-9-]+", "_", "-".join(part for part in self if part))


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        name: Name in the specification.
        trainer: Name of the trainer's class.
        plans: Plans of its own, ``None`` for those of the matrix.
        may_differ: Fields of the fingerprint in which it may differ from the other arms.
        folds: That it is trained in.
        datasets: That it is trained on, full names.
        configurations: That it is trained in.
        is_ensemble: Whether it is of other arms, and not trained.
    """

    name: str
    trainer: str
    plans: str | None
    may_differ: frozenset[str]
    folds: tuple[int, ...]
    datasets: tuple[str, ...]
    configurations: tuple[str, ...]
    is_ensemble: bool = False

    def has(self, setting: Setting, fold: int) -> bool:
        """Whether it is trained there."""
        chosen = (setting.dataset in self.datasets, setting.configuration in self.configurations, fold in self.folds)
        return all(chosen)


@dataclass(frozen=True)
class Published:
    """A printed number, shown beside ours.

    Attributes:
        dataset: Dataset it belongs to, ``None`` for every one.
        arm: Arm it is shown beside.
        label: Class, ``None`` for the mean over classes.
        metric: Metric.
        value: In the unit of the tables; a rate up to 1 is read as a fraction.
        source: Where it is printed.
    """

    dataset: str | None
    arm: str
    label: str | None
    metric: str
    value: float
    source: str


@dataclass(frozen=True)
class Specification:
    """A benchmark's matrix and metrics; the first arm is the reference."""

    name: str
    question: str
    answer: str
    datasets: tuple[str, ...]
    configurations: tuple[str, ...]
    plans: tuple[str, ...]
    arms: tuple[Arm, ...]
    folds: tuple[int, ...]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    preset: str
    merged: frozenset[str]
    published: tuple[Published, ...]

    @property
    def reference(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.arms[0].name

    @property
    def arm_names(self) -> tuple[str, ...]:
        """Names of the arms in order."""
        return tuple(arm.name for arm in self.arms)

    @property
    def settings(self) -> list[Setting]:
        """What is trained, without test sets."""
        return [Setting(*parts) for parts in product(self.datasets, self.configurations, self.plans)]

    def within(self, setting: Setting) -> Specification:
        """The same with the arms alone that are trained on the dataset and in the configuration of a setting."""
        arms = [a for a in self.arms if setting.dataset in a.datasets and setting.configuration in a.configurations]
        return replace(self, arms=tuple(arms))

    def title(self, setting: Setting) -> str:
        """A setting for readers: the dataset, and what else the matrix has several of."""
        parts = [setting.dataset]
        parts += [setting.configuration] if len(self.configurations) > 1 else []
        parts += [setting.plans] if len(self.plans) > 1 else []
        parts += [f"test set {setting.test_set}"] if setting.test_set else []
        return " · ".join(parts)

    def cells_of(self, arm: str) -> int:
        """Number of cells that an arm has in each setting."""
        folds = next(one.folds for one in self.arms if one.name == arm)
        return len(folds) * len(self.seeds)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], known_datasets: Iterable[str] = ()) -> Specification:
        """Read the content of ``benchmark.json``.

        Args:
            content: The content.
            known_datasets: Full names of datasets, for those that are given by number only.

        Raises:
            UserError: If something needed is absent or not of its kind.
        """
        asked = parse(content, SPECIFICATION, Path())
        known = sorted(known_datasets)
        names = {one.id: one.name or _full_name(one.key, known) for one in asked.datasets}
        made = cls(
            name=asked.name,
            question=asked.question,
            answer=asked.answer,
            datasets=tuple(names.values()),
            configurations=asked.configurations,
            plans=tuple(plans.name for plans in asked.matrix_plans),
            arms=tuple(_arm(arm, asked, names) for arm in asked.arms),
            folds=asked.folds,
            seeds=asked.seeds,
            metrics=asked.metrics,
            preset=asked.preset,
            merged=frozenset(asked.merged),
            published=tuple(_published(entry, known) for entry in asked.published),
        )
        for name in (*made.metrics, *(entry.metric for entry in made.published)):
            if name not in METRICS and not re.fullmatch(r"NSD_[\d.]+mm", name):
                raise UserError(f"{SPECIFICATION} asks for an unknown metric {name}; see docs/evaluation.md")
        return made


def _full_name(dataset: str, known: list[str]) -> str:
    if not dataset.isdecimal():
        return dataset
    number = f"Dataset{int(dataset):03d}"
    return next((name for name in known if name.startswith(f"{number}_")), number)


def _arm(arm: spec.Arm, asked: spec.Spec, names: Mapping[int, str]) -> Arm:
    # Options of an arm are set through plans of its own.
    declared = set(MAY_DIFFER) if arm.plans or arm.options or arm.ensemble else set(arm.differs)
    datasets = tuple(names[number] for number in arm.datasets or names)
    return Arm(
        arm.name,
        arm.trainer,
        arm.plans,
        frozenset(declared),
        arm.folds or asked.folds,
        datasets,
        arm.configurations or asked.configurations,
        bool(arm.ensemble),
    )


def _published(entry: Mapping[str, Any], known: list[str]) -> Published:
    dataset = entry.get("dataset")
    label = entry.get("label")
    if absent := [key for key in ("arm", "metric", "value") if key not in entry]:
        raise UserError(f"a published number lacks {absent[0]!r} ({dict(entry)}); add it to the benchmark's file")
    return Published(
        dataset=None if dataset is None else _full_name(str(dataset), known),
        arm=str(entry["arm"]),
        label=None if label is None or label in {"mean", "mean over classes"} else str(label),
        metric=str(entry["metric"]),
        value=float(entry["value"]),
        source=str(entry.get("source") or ""),
    )
