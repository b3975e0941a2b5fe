"""Options of a trainer as data: a frozen dataclass that says of each its range, its source and what it does.

The value of an option is, the first that there is: that of the plans file, under
``"nnunet_ext": {trainer: {option: value}}``; that of an attribute of the trainer with the name of the option, which a
derived class sets; the default. Plans are saved with a model, so that prediction and ``--c`` know them.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar, Union

from nnunet_ext.core.errors import UserError

PLANS_KEY = "nnunet_ext"
_ABSENT = object()
Value = TypeVar("Value")
Chosen = TypeVar("Chosen", bound="Options")


@dataclass(frozen=True)
class Meaning:
    """What is known of an option beside its type and default.

    Attributes:
        text: what it does, in a sentence.
        paper: the paper's value and where it stands; empty where the paper has none.
        at_least: smallest value.
        above: the value is larger than this.
        at_most: largest value.
        below: the value is smaller than this.
    """

    text: str
    paper: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def range(self) -> str:
        """The range in words; empty where there is none."""
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        return " and ".join(f"{words} {limit:g}" for words, limit in limits.items() if limit is not None)

    def allows(self, number: float) -> bool:
        """Whether a number is within the range."""
        return (
            (self.at_least is None or number >= self.at_least)
            and (self.above is None or number > self.above)
            and (self.at_most is None or number <= self.at_most)
            and (self.below is None or number < self.below)
        )


def option(default: Value, text: str, paper: str = "", **limits: float) -> Value:
    """A field of :class:`Options`; the arguments after the default are those of :class:`Meaning`."""
    made: Value = field(default=default, metadata={"meaning": Meaning(text, paper, **limits)})
    return made


@dataclass(frozen=True)
class Options:
    """Options of a trainer. A derived class adds fields made by :func:`option`.

    Types of options: ``bool``, ``int``, ``float``, ``str``, ``Literal``, tuples of one of them, and any of these or
    ``None``. The limits of an option hold for every number of a tuple.
    """

    # Names that options had in earlier versions.
    RENAMED: ClassVar[Mapping[str, str]] = {}

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Where values saved by :meth:`as_dict` differ from these, as "name: saved, now ..."."""
        return [
            f"{name}: {other[name]!r}, now {value!r}"
            for name, value in self.as_dict().items()
            if name in other and other[name] != value
        ]

    def as_dict(self) -> dict[str, Any]:
        """Values by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def renamed(options: type[Options]) -> dict[str, str]:
    """Options by the names that they had in earlier versions, those of all that the class derives from."""
    return {old: new for base in reversed(options.__mro__) for old, new in vars(base).get("RENAMED", {}).items()}


def meaning(options: type[Options], name: str) -> Meaning:
    """What is known of an option."""
    return {f.name: f for f in fields(options)}[name].metadata["meaning"]


def types_of(options: type[Options]) -> dict[str, Any]:
    """Types of the options, by name."""
    hints = typing.get_type_hints(options)
    return {f.name: hints[f.name] for f in fields(options)}


def resolve(
    options: type[Options], trainer: object, trainer_name: str, plans: Mapping[str, Any], where: str
) -> Options:
    """The options of a trainer.

    Args:
        options: their class.
        trainer: whose attributes stand for the defaults.
        trainer_name: without run length.
        plans: content of the plans file.
        where: the plans file, for messages.

    Raises:
        UserError: the plans file names no such option, or a value is none that the option can have.
    """
    values = {}
    for old, new in renamed(options).items():
        if hasattr(trainer, old):
            raise UserError(f"{old} of {trainer_name} is called {new} now: rename it in {type(trainer).__name__}.")
    for name in types_of(options):
        value = getattr(trainer, name, _ABSENT)
        if value is not _ABSENT:
            values[name] = checked(options, name, value, f"attribute of {type(trainer).__name__}")
    section = plans.get(PLANS_KEY, {})
    if not isinstance(section, Mapping) or not isinstance(section.get(trainer_name, {}), Mapping):
        raise UserError(f'"{PLANS_KEY}" in {where} must be of the form {{"{trainer_name}": {{option: value}}}}.')
    for name, value in section.get(trainer_name, {}).items():
        if name not in types_of(options):
            raise UserError(f"{unknown(options, name, trainer_name)} It stands in {where}.")
        values[name] = checked(options, name, value, where)
    return options(**values)


def unknown(options: type[Options], name: str, trainer_name: str) -> str:
    """A sentence for a name that no option has, with the closest that one has."""
    names = list(types_of(options))
    earlier = renamed(options)
    close = [earlier[name]] if name in earlier else difflib.get_close_matches(name, names, 1, 0.5)
    advice = f"did you mean {close[0]}?" if close else f"it has {', '.join(names) or 'none'}."
    return f"{trainer_name} has no option {name}: {advice}"


def checked(options: type[Options], name: str, value: Any, where: str) -> Any:
    """The value in the type of the option, as JSON has no tuples.

    Raises:
        UserError: the option cannot have it.
    """
    kind, known = types_of(options)[name], meaning(options, name)
    converted = _converted(kind, value)
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if converted is _ABSENT or not all(known.allows(n) for n in numbers if _is_number(n)):
        raise UserError(f"{name} must be {describe(kind, known)}, got {value!r} ({where}).")
    return converted


def parse(options: type[Options], name: str, text: str) -> Any:
    """The value of an option from the command line: numbers of a tuple are separated by commas.

    Raises:
        UserError: the option cannot have it.
    """
    kind = types_of(options)[name]
    return checked(options, name, _parsed(kind, text.strip()), "--set")


def describe(kind: Any, known: Meaning | None = None) -> str:
    """Type and range in words."""
    limits = known.range() if known else ""
    if typing.get_origin(kind) in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(k, known) for k in typing.get_args(kind)))
    if kind is type(None):
        return "none"
    if typing.get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list, each " + describe(typing.get_args(kind)[0], known)
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[kind]
    return f"{words} {limits}".rstrip() if kind in (int, float) else words


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _converted(kind: Any, value: Any) -> Any:
    """``value`` as one of ``kind``; ``_ABSENT`` if it is none."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        made = (_converted(each, value) for each in arguments)
        return next((each for each in made if each is not _ABSENT), _ABSENT)
    if origin is Literal:
        return value if value in arguments else _ABSENT
    if origin is tuple:
        items = [_converted(arguments[0], v) for v in value] if isinstance(value, (list, tuple)) else [_ABSENT]
        return _ABSENT if any(item is _ABSENT for item in items) else tuple(items)
    if kind is float and _is_number(value) and not math.isnan(value):
        return float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    return value if kind in (bool, str, type(None)) and isinstance(value, kind) else _ABSENT


def _parsed(kind: Any, text: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return None if text.lower() == "none" else _parsed(next(k for k in arguments if k is not type(None)), text)
    if origin is tuple:
        return tuple(_parsed(arguments[0], part.strip()) for part in text.split(",") if part.strip())
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


def with_options(
    plans: dict[str, Any], trainer_name: str, values: Mapping[str, Any], plans_name: str
) -> dict[str, Any]:
    """Plans of another name in which a trainer has these options beside those it had."""
    section = plans.get(PLANS_KEY, {})
    extended = {**section, trainer_name: {**section.get(trainer_name, {}), **values}}
    return {**plans, "plans_name": plans_name, PLANS_KEY: extended}


def changed(options: Chosen, **values: Any) -> Chosen:
    """A copy with other values, which are checked.

    Raises:
        UserError: an option does not exist or cannot have the value.
    """
    for name in values:
        if name not in types_of(type(options)):
            raise UserError(unknown(type(options), name, type(options).__name__))
    return dataclasses.replace(options, **{n: checked(type(options), n, v, "changed") for n, v in values.items()})
