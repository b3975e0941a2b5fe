"""What a reader has to say of a file that it could read, from harmless to unusable."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nnunet_ext.core.errors import UserError


@dataclass(frozen=True)
class Remarks:
    """Clauses about a file, of which its name is the subject: "its header has ...".

    Attributes:
        notes: for the report.
        doubts: what most likely is a mistake; the conversion stops, and with ``--force`` they are notes.
        fault: why the geometry cannot be used at all, empty where it can; of a label map it is not needed.
    """

    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    fault: str = ""


NOTHING = Remarks()


_HEADING = "things are wrong:"


def together(problems: Iterable[UserError | str]) -> UserError:
    """One error of several: the only one as it is, else a list with one line each."""
    texts: dict[str, None] = {}  # in order, each once
    for problem in map(str, problems):
        heading, *others = problem.split("\n  ")  # one that was put together itself
        texts.update(dict.fromkeys(others if others and heading.endswith(_HEADING) else [problem]))
    if len(texts) == 1:
        return UserError(*texts)
    return UserError("\n  ".join([f"{len(texts)} {_HEADING}", *texts]))
