"""The one exception that every command of the project turns into one sentence and exit code 1."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """Bad input or environment that the user can mend.

    The message is one clear sentence: it names the file or setting at fault and says what to do.
    ``nnunet-ext`` and ``python -m dataset_conversion`` print it without a traceback and exit with 1; so do nnU-Net's
    commands where one of our trainers is asked for (:func:`nnunet_ext.core.console.print_without_traceback`).
    """


def last_line(error: BaseException) -> str:
    """What libraries say last of a fault, where there may be many lines; the kind of error if they say nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


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
