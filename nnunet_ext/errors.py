"""The one exception that every command of the project turns into one sentence and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType


class UserError(Exception):
    """Bad input or environment that the user can mend.

    The message is one clear sentence: it names the file or setting at fault and says what to do.
    ``nnunet-ext`` and ``python -m dataset_conversion.*`` print it without a traceback and exit with 1; so do nnU-Net's
    commands once one of our trainers is made (:func:`print_without_traceback`).
    """


def print_without_traceback() -> None:
    """Let an uncaught :class:`UserError` end this process with its sentence alone; other errors are shown as before."""
    if isinstance(sys.excepthook, _Sentence):
        return
    sys.excepthook = _Sentence(sys.excepthook)


class _Sentence:
    """``sys.excepthook`` that leaves all but :class:`UserError` to another one."""

    def __init__(self, otherwise: Callable[..., object]) -> None:
        self.otherwise = otherwise

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            self.otherwise(kind, error, traceback)
