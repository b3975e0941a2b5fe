"""Why a job failed, from its exit code and the end of its log."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from nnunet_ext.benchmark.records import AttemptFailure, FailureKind

STOPPED = 75  # exit code of a job that was asked to stop and can go on: EX_TEMPFAIL
NOT_A_NUMBER = 76  # exit code of a training whose loss is nan or infinite
_TAIL = 400  # lines of a log that are looked at
_NEAR = 0.95  # of the time limit: a stop so late is the scheduler's

# The first that matches decides. Words of PyTorch, glibc, Linux, SLURM, nnU-Net and its readers.
_PATTERNS: Sequence[tuple[FailureKind, str]] = (
    ("out of memory", r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"),
    ("out of memory", r"^MemoryError|Cannot allocate memory|can't allocate memory|Unable to allocate .*iB"),
    ("out of memory", r"oom[-_ ]kill|Out Of Memory|exceeded (job|step) memory limit"),
    ("time limit", r"DUE TO TIME LIMIT"),
    ("lost node", r"DUE TO NODE FAILURE|NODE_FAIL|CUDA error: (device not ready|unspecified launch failure)"),
    ("lost node", r"Stale file handle|Transport endpoint is not connected|Xid|device-side failure"),
    ("data", r"^error: |^FileNotFoundError|^EOFError|^BadZipFile|ImageFileError|^KeyError: 'properties|blosc2.*Error"),
    ("data", r"Error opening|No space left on device|Disk quota exceeded"),
)
# A cause that only shows in the main process of nnU-Net as this, and whose own message came before.
_CONSEQUENCES = ("background workers are no longer alive", "background worker is missing")


def classify(
    exit_code: int,
    log: str,
    *,
    asked_to_stop: bool = False,
    wall_seconds: float = 0.0,
    limit_seconds: float | None = None,
) -> AttemptFailure | None:
    """What went wrong, with the original message; ``None`` for exit code 0.

    Args:
        exit_code: of the job; negative for a signal, as :mod:`subprocess` gives it.
        log: text of its log.
        asked_to_stop: whether SIGTERM or SIGUSR1 came.
        wall_seconds: how long it ran.
        limit_seconds: when the scheduler asks a job to stop for its time limit, ``None`` without one.
    """
    if exit_code == 0:
        return None
    lines = [line.rstrip() for line in log.splitlines() if line.strip()][-_TAIL:]
    if asked_to_stop or exit_code == STOPPED:
        late = limit_seconds is not None and wall_seconds >= _NEAR * limit_seconds
        return AttemptFailure("time limit" if late else "stopped", "asked to stop; the last whole epoch is saved")
    if exit_code == NOT_A_NUMBER:
        return AttemptFailure("NaN", _last(lines, "the loss is not a number"))
    for kind, pattern in _PATTERNS:
        found = next((line.strip() for line in reversed(lines) if re.search(pattern, line)), None)
        if found is not None:
            return AttemptFailure(kind, found.removeprefix("error: "))
    return _without_words(exit_code, lines)


def _without_words(exit_code: int, lines: Sequence[str]) -> AttemptFailure:
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return AttemptFailure("out of memory", "killed by signal 9, which for a job is most often lack of memory")
    if exit_code < 0:
        return AttemptFailure("other", f"ended by {signal.Signals(-exit_code).name}; {_last(lines, 'no output')}")
    return AttemptFailure("other", _last(lines, f"exit code {exit_code}, no output"))


def is_hopeless(failure: AttemptFailure) -> bool:
    """Whether the same job would fail in the same way again."""
    return failure.kind in ("NaN", "data") or is_of_device_memory(failure)


def is_of_device_memory(failure: AttemptFailure) -> bool:
    """Whether the memory that lacked was that of the GPU, which no larger request mends."""
    return (
        failure.kind == "out of memory"
        and re.search(r"CUDA|CUBLAS|CUDNN|OutOfMemoryError", failure.message) is not None
    )


def _last(lines: Sequence[str], otherwise: str) -> str:
    """The last line that says something of the fault."""
    told = [line.strip() for line in lines if not any(words in line for words in _CONSEQUENCES)]
    errors = [line for line in told if re.match(r"(\w+\.)*\w*(Error|Exception|Warning|Interrupt|Exit)\b.*:", line)]
    return (errors or told or [otherwise])[-1]
