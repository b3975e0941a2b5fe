"""What a training tells while it runs: its ledger entry, and whether it was asked to stop."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

from nnunet_ext.benchmark.records import Attempt

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(BaseException):
    """The training was asked to stop. No ``Exception``, so that nothing on the way takes it for a failure."""


class StopRequest:
    """Notes SIGTERM, SIGUSR1 and SIGINT, which ask a training to save and end."""

    def __init__(self) -> None:
        self.came = False
        for number in _SIGNALS:
            signal.signal(number, self._note)
        # Workers that draw batches must end when they are told to.
        os.register_at_fork(after_in_child=_default_signals)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.came = True

    def check(self) -> None:
        """Raise :class:`Stopped` if one came."""
        if self.came:
            raise Stopped


class Ledger:
    """The entry of this attempt, renewed after every epoch, so that it tells of a killed attempt too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._started = time.monotonic()

    def update(self, **changes: object) -> None:
        """Write what is known now."""
        attempt = Attempt.read(self.path)
        own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        replace(
            attempt,
            wall_seconds=round(time.monotonic() - self._started, 3),
            cpu_seconds=round(own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime, 3),
            peak_rss_bytes=max(own.ru_maxrss, others.ru_maxrss) * 1024,
            **changes,  # type: ignore[arg-type]
        ).write(self.path)

    def epoch(self, number: int, **changes: object) -> None:
        """An epoch is done."""
        first = Attempt.read(self.path).first_epoch
        self.update(first_epoch=number if first is None else first, last_epoch=number, **changes)


def _default_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def hold(path: Path) -> None:
    """Hold a lock file until this process ends, waiting for whoever has it.

    A job that is killed alone leaves its training behind, which goes on; its successor's training waits here. Processes
    forked from this one do not hold the lock, and end with it.
    """
    file = os.open(path, os.O_CREAT | os.O_RDWR)
    fcntl.flock(file, fcntl.LOCK_EX)

    def in_fork() -> None:
        os.close(file)
        _end_with_parent()

    os.register_at_fork(after_in_child=in_fork)


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent ends; workers of a killed training would wait forever."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
