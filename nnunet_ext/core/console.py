"""The treatment of user errors, which every command line of the project shares."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType

from nnunet_ext.core.errors import UserError


def run(application: Callable[[], object]) -> None:
    """Run a typer application; a :class:`UserError` becomes one sentence on stderr and exit code 1."""
    try:
        application()
    except UserError as error:
        _print(error)
        sys.exit(1)


def print_without_traceback() -> None:
    """Let an uncaught :class:`UserError` end this process with its sentence alone; other errors are shown as before.

    Not in the processes that torch spawns for several GPUs: what they raise, torch prints with its traceback.
    """
    if not isinstance(sys.excepthook, _Sentence):
        sys.excepthook = _Sentence(sys.excepthook)


class _Sentence:
    """``sys.excepthook`` that has a sentence for :class:`UserError`."""

    def __init__(self, otherwise: Callable[..., object]) -> None:
        self.otherwise = otherwise

    def __call__(self, kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        # A hook of somebody else is called all the same: that of Weights & Biases marks the run as failed.
        if not isinstance(error, UserError) or self.otherwise is not sys.__excepthook__:
            self.otherwise(kind, error, traceback)
        if isinstance(error, UserError):
            _print(error)


def _print(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)
