"""What is evaluated: the labels or regions of a ``dataset.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import label_values
from nnunet_ext.evaluation.conventions import Conventions

FOREGROUND = "foreground"
"""Name of the mean over all classes."""

_LESIONS = ("tumor", "tumour", "lesion", "cancer", "metasta", "cyst")


@dataclass(frozen=True)
class Target:
    """A class to evaluate.

    Attributes:
        name: Name in ``dataset.json``.
        key: nnU-Net's key in ``summary.json``: ``"1"`` for a label, ``"(1, 2)"`` for a region.
        members: Label values that form it.
    """

    name: str
    key: str
    members: tuple[int, ...]


@dataclass(frozen=True)
class LabelScheme:
    """Classes of a dataset.

    Attributes:
        targets: Classes to evaluate, in the order of ``dataset.json``.
        labels: Every label value that a label map may hold, background and ignore label included.
        ignore: Value of the ignore label.
    """

    targets: tuple[Target, ...]
    labels: tuple[int, ...]
    ignore: int | None = None


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Read a ``dataset.json``.

    Raises:
        UserError: If it cannot be read or lacks ``labels`` or ``file_ending``.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for key in ("labels", "file_ending"):
        if key not in content:
            raise UserError(f"{path} has no {key!r}; is it the dataset.json of an nnU-Net v2 dataset?")
    return content


def label_scheme(dataset_json: Mapping[str, Any], conventions: Conventions | None = None) -> LabelScheme:
    """Read the classes from ``dataset.json``; regions where nnU-Net would see regions.

    Args:
        dataset_json: Content of ``dataset.json``.
        conventions: ``lesions_belong_to_organ`` makes the first label the union of all.

    Raises:
        UserError: If no class is left to evaluate or a label is not an integer.
    """
    declared: Mapping[str, Any] = dataset_json["labels"]
    try:
        values = {name: label_values(value) for name, value in declared.items()}
    except (TypeError, ValueError) as error:
        raise UserError(f"labels of dataset.json must be integers or lists of integers: {error}") from error
    ignore = values["ignore"][0] if "ignore" in values else None
    has_regions = any(len(members) > 1 for members in values.values())
    classes = {n: m for n, m in values.items() if n != "ignore" and set(m) != {0}}
    if not classes:
        raise UserError("dataset.json declares no class besides background")
    if conventions is not None and conventions.lesions_belong_to_organ and not has_regions:
        classes = _with_lesions(classes)
    targets = tuple(
        Target(name, _key(declared[name], members, has_regions), members) for name, members in classes.items()
    )
    labels = sorted({0, *(v for members in values.values() for v in members)})
    return LabelScheme(targets, tuple(labels), ignore)


def _with_lesions(classes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The organ as the union of itself and its lesion, which are the two classes there are."""
    organ, *others = sorted(classes, key=lambda name: classes[name])
    if not others:
        return classes
    if len(others) > 1 or not any(word in others[0].lower() for word in _LESIONS):
        raise UserError(
            f"dataset.json declares {', '.join(classes)}, and the convention that lesions belong to their organ "
            "(preset lits) is for an organ and its lesions; choose another preset."
        )
    return {**classes, organ: (*classes[organ], *classes[others[0]])}


def _key(declared: object, members: tuple[int, ...], has_regions: bool) -> str:
    """The key nnU-Net would use: a tuple for whatever is a list in a dataset with regions, else a number."""
    as_tuple = len(members) > 1 or (has_regions and isinstance(declared, (list, tuple)))
    return str(members if as_tuple else members[0])
