"""What is evaluated: the labels or regions of a ``dataset.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import KEY, label_values
from nnunet_ext.evaluation.conventions import Conventions

MEAN_KEY = "foreground_mean"
"""Key of the mean over all classes, nnU-Net's own; keys of classes are numbers or tuples, so none can be the same."""
MEAN_NAME = "mean over classes"
"""What readers see for it; in code it is the label ``None``, which no class can be called."""
_HIGHEST = 65535  # a list of this length is made in passing; nnU-Net numbers classes without gaps

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
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_repeats)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    for key, kind in (("labels", dict), ("file_ending", str)):
        if not isinstance(content, dict) or not isinstance(content.get(key), kind):
            what = "a table of names and numbers" if kind is dict else "a text such as '.nii.gz'"
            raise UserError(f"{path} has no {key!r}, {what}; is it the dataset.json of an nnU-Net v2 dataset?")
    ending = content["file_ending"]
    if not ending.startswith(".") or len(ending) < 2:
        raise UserError(f"{path} says file_ending {ending!r}, which does not begin with a dot: mend it.")
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python would keep the last of two entries of one name and drop the other without a word."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(name for name in names if names.count(name) > 1)!r} twice")
    return table


def label_scheme(dataset_json: Mapping[str, Any], conventions: Conventions | None = None) -> LabelScheme:
    """Read the classes from ``dataset.json``; regions where nnU-Net would see regions.

    Args:
        dataset_json: Content of ``dataset.json``.
        conventions: ``lesions_belong_to_organ`` makes the first label the union of all.

    Raises:
        UserError: If no class is left to evaluate, or the labels are no table that nnU-Net could train on: values that
            are not whole numbers, two names of the same voxels, a region that holds background.
    """
    declared: Mapping[str, Any] = dataset_json["labels"]
    values = {name: _values(name, value) for name, value in declared.items()}
    ignore = values["ignore"][0] if "ignore" in values else None
    has_regions = any(len(members) > 1 for members in values.values())
    classes = {n: m for n, m in values.items() if n != "ignore" and set(m) != {0}}
    _check_classes(classes, values.get("ignore", ()))
    if not classes:
        raise UserError("dataset.json declares no class besides background")
    if conventions is not None and conventions.lesions_belong_to_organ and not has_regions:
        classes = _with_lesions(classes)
    targets = tuple(
        Target(name, _key(declared[name], members, has_regions), members) for name, members in classes.items()
    )
    labels = sorted({0, *(v for members in values.values() for v in members)})
    return LabelScheme(targets, tuple(labels), ignore)


def _values(name: str, declared: object) -> tuple[int, ...]:
    """Label values of one entry, which must be whole numbers."""
    members: Sequence[Any] = declared if isinstance(declared, (list, tuple)) else [declared]
    wrong = [
        m for m in members if isinstance(m, bool) or not (isinstance(m, int) or str(m).removesuffix(".0").isdecimal())
    ]
    if wrong or not members or not all(0 <= int(m) <= _HIGHEST for m in members):
        swapped = " (nnU-Net v2 has name: number, not number: name)" if str(name).isdecimal() else ""
        raise UserError(
            f"labels of dataset.json must be integers from 0 to {_HIGHEST} or lists of integers, not "
            f"{json.dumps({name: declared}, default=str)}{swapped}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UserError(f"the label name {name!r} of dataset.json is no text that a file can hold: mend it") from None
    return label_values(declared)


def _check_classes(classes: Mapping[str, tuple[int, ...]], ignore: Sequence[int]) -> None:
    """Whether each class is made of voxels of its own, or a region of its own."""
    if len(set(ignore)) > 1 or 0 in ignore:
        raise UserError(f"dataset.json says ignore {list(ignore)}, where it must be one number above 0")
    seen: dict[frozenset[int], str] = {}
    for name, members in classes.items():
        if 0 in members:
            raise UserError(f"the region {name!r} of dataset.json holds 0, which is background: mend it")
        if set(ignore) & set(members):
            raise UserError(f"{name!r} of dataset.json holds the value of ignore, {ignore[0]}: mend it")
        if frozenset(members) in seen:
            raise UserError(
                f"dataset.json gives {name!r} and {seen[frozenset(members)]!r} the same value {list(members)}: mend it"
            )
        seen[frozenset(members)] = name


def annotated_classes(dataset_json: Mapping[str, Any], targets: Sequence[Target]) -> dict[str, tuple[int | str, ...]]:
    """``annotated_labels`` of a ``dataset.json``: names or values by case; all classes where a case is not named.

    Raises:
        UserError: If it is no table of lists, or names what the dataset does not have.
    """
    table = dataset_json.get(KEY, {})
    known = {"background", "ignore", 0} | {t.name for t in targets} | {m for t in targets for m in t.members}
    if not isinstance(table, Mapping):
        raise UserError(f'{KEY} of dataset.json must be a table {{"case": ["label", ...], ...}}: mend it')
    for case, names in table.items():
        if not isinstance(names, (list, tuple)):
            raise UserError(f"{KEY} of dataset.json must give a list of labels for case {case}, not {names!r}: mend it")
        unknown = [str(name) for name in names if not isinstance(name, (str, int)) or name not in known]
        if unknown:
            raise UserError(f"{KEY} of dataset.json names {', '.join(unknown)} for case {case}, which is no label")
    return {case: tuple(names) for case, names in table.items()}


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
