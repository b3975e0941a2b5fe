"""What was asked of a benchmark, as far as its report needs it: the content of ``benchmark.json``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.metrics import METRICS

_MAY_DIFFER = ("plans", "preprocessed")


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
    """

    name: str
    trainer: str
    plans: str | None
    may_differ: frozenset[str]


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

    def title(self, setting: Setting) -> str:
        """A setting for readers: the dataset, and what else the matrix has several of."""
        parts = [setting.dataset]
        parts += [setting.configuration] if len(self.configurations) > 1 else []
        parts += [setting.plans] if len(self.plans) > 1 else []
        parts += [f"test set {setting.test_set}"] if setting.test_set else []
        return " · ".join(parts)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], known_datasets: Iterable[str] = ()) -> Specification:
        """Read the content of ``benchmark.json``.

        Args:
            content: The content.
            known_datasets: Full names of datasets, for those that are given by number only.

        Raises:
            UserError: If something needed is absent or not of its kind.
        """
        try:
            known = sorted(known_datasets)
            datasets = tuple(_dataset(entry, known) for entry in content["datasets"])
            arms = tuple(_arm(str(name), value) for name, value in content["arms"].items())
            if not arms:
                raise UserError("benchmark.json names no arm; run the benchmark again")
            merged = frozenset(map(str, content.get("merged") or {}))
            metrics = tuple(map(str, content.get("metrics") or ("Dice",)))
            published = tuple(_published(entry, known) for entry in content.get("published") or ())
            made = cls(
                name=str(content["name"]),
                question=str(content.get("question") or ""),
                answer=str(content.get("answer") or ""),
                datasets=datasets,
                configurations=tuple(map(str, content["configurations"])),
                plans=tuple(map(str, content.get("plans") or ("nnUNetPlans",))),
                arms=arms,
                folds=tuple(map(int, content["folds"])),
                seeds=tuple(map(int, content.get("seeds") or (0,))),
                metrics=metrics,
                preset=str(content.get("preset") or "papers"),
                merged=merged,
                published=published,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"benchmark.json is not the specification of a benchmark ({error!r}); run the benchmark again"
            ) from error
        for name in (*made.metrics, *(entry.metric for entry in made.published)):
            if name not in METRICS and not re.fullmatch(r"NSD_[\d.]+mm", name):
                raise UserError(f"benchmark.json asks for an unknown metric {name}; see docs/evaluation.md")
        return made


def _dataset(entry: Any, known: list[str]) -> str:
    if isinstance(entry, Mapping):
        entry = entry.get("name") or entry["id"]
    text = str(entry)
    if not text.isdecimal():
        return text
    number = f"Dataset{int(text):03d}"
    return next((name for name in known if name.startswith(f"{number}_")), number)


def _arm(name: str, value: Any) -> Arm:
    if isinstance(value, str):
        return Arm(name, value, None, frozenset())
    plans = value.get("plans")
    # Options of an arm are set through plans of its own.
    declared = set(_MAY_DIFFER) if plans or value.get("options") else set()
    declared |= set(value.get("differs") or ()) & set(_MAY_DIFFER)
    return Arm(name, str(value["trainer"]), plans, frozenset(declared))


def _published(entry: Mapping[str, Any], known: list[str]) -> Published:
    dataset = entry.get("dataset")
    label = entry.get("label")
    if absent := [key for key in ("arm", "metric", "value") if key not in entry]:
        raise UserError(f"a published number lacks {absent[0]!r} ({dict(entry)}); add it to the benchmark's file")
    return Published(
        dataset=None if dataset is None else _dataset(dataset, known),
        arm=str(entry["arm"]),
        label=None if label is None or label in {"mean", "mean over classes"} else str(label),
        metric=str(entry["metric"]),
        value=float(entry["value"]),
        source=str(entry.get("source") or ""),
    )
