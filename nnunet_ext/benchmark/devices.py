"""GPUs of one machine, each given to one job at a time by a lock file; a killed job frees its own."""

from __future__ import annotations

import getpass
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from nnunet_ext.core.errors import UserError

_POLL_SECONDS = 0.5


def visible_gpus() -> tuple[str, ...]:
    """Numbers of the NVIDIA GPUs of this machine, without importing torch."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    listed = subprocess.run([command, "-L"], capture_output=True, encoding="utf-8", check=False)
    return tuple(str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU "))


def parse_gpus(text: str, there: Sequence[str]) -> tuple[str, ...]:
    """The option ``--gpus``: numbers separated by commas, or ``none``.

    Raises:
        UserError: a GPU is not there.
    """
    if text.strip().lower() in ("none", ""):
        return ()
    chosen = tuple(part.strip() for part in text.split(","))
    for number in chosen:
        if number not in there:
            raise UserError(f"--gpus {number}: this machine has {', '.join(there) or 'no GPU'}; name others, or none.")
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--gpus {text} names a GPU twice.")
    return chosen


def lock_folder() -> Path:
    """Where the lock files of this user lie, shared by all benchmarks of the machine."""
    folder = Path(tempfile.gettempdir()) / f"nnunet_ext_devices_{getpass.getuser()}"
    folder.mkdir(exist_ok=True)
    return folder


@contextmanager
def one_of(gpus: Sequence[str], folder: Path | None = None) -> Iterator[str]:
    """Wait for a GPU that no other job has, and hold it.

    Args:
        gpus: numbers to choose from.
        folder: of the lock files.
    """
    folder = folder or lock_folder()
    while True:
        for number in gpus:
            lock = FileLock(folder / f"gpu_{number}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield number
            finally:
                lock.release()
            return
        time.sleep(_POLL_SECONDS)
