"""A process that does the work of a job: watched, asked to stop, and measured by the job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        exit_code: negative for a signal.
        asked_to_stop: whether the job was asked to stop meanwhile.
        cpu_seconds: of the process and those that it started and waited for.
        peak_rss_bytes: resident memory of the largest of them.
    """

    exit_code: int
    asked_to_stop: bool
    cpu_seconds: float
    peak_rss_bytes: int


class Stop:
    """Whether this job was asked to stop; passes the signal on to the process that works."""

    def __init__(self) -> None:
        self.asked = False
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Take SIGTERM, SIGUSR1 and SIGINT as a wish to stop, meanwhile."""
        before = {number: signal.signal(number, self._ask) for number in _STOP_SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def run(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Ended:
        """Run a command with its output in a log file, to which it is appended.

        The command is the head of a session of its own; what it leaves behind of it is killed.
        """
        with log.open("ab") as output:
            # In a session of its own: Ctrl-C in a terminal reaches the job alone, which lets the training save first.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment, start_new_session=True
            )
            self._process = process
            if self.asked:  # between its start and here
                process.send_signal(signal.SIGTERM)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # workers that an aborted process has left
        return Ended(process.returncode, self.asked, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
