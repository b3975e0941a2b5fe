"""What a former run has left in SLURM's queue."""

from __future__ import annotations

import getpass
import hashlib
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from nnunet_ext.core.errors import UserError

_GONE = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}


def job_prefix(work: Path) -> str:
    """Beginning of the names of a work folder's jobs."""
    return f"bench-{hashlib.sha256(str(work.resolve()).encode()).hexdigest()[:10]}"


def require_slurm() -> None:
    """Check that jobs can be sent from here.

    Raises:
        UserError: SLURM's commands are not there.
    """
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise UserError(f"The command {command} was not found: run on a login node of the cluster.")


def has_accounting() -> bool:
    """Whether SLURM keeps an account of jobs, which ``sacct`` then tells of; without, ``squeue`` has to do."""
    shown = subprocess.run(["scontrol", "show", "config"], capture_output=True, encoding="utf-8", check=False)
    lines = [line for line in shown.stdout.splitlines() if line.startswith("AccountingStorageType")]
    return shutil.which("sacct") is not None and any("none" not in line for line in lines)


def clear_queue(work: Path, keys: Iterable[str]) -> dict[str, list[str]]:
    """Cancel what waits of a former run; its driver was killed, and the jobs will be sent again.

    Args:
        work: the work folder.
        keys: of the cells.

    Returns:
        Ids of the jobs that run, by the cell they work on.

    Raises:
        UserError: the queue cannot be read.
    """
    command = ["squeue", "-h", "-u", getpass.getuser(), "-o", "%i|%T|%j|%k"]
    listed = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    if listed.returncode:
        raise UserError(f"squeue failed ({listed.stderr.strip()}): is SLURM running?")
    by_comment = {key.replace("/", "_"): key for key in keys}
    waiting: list[str] = []
    running: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        number, state, name, comment = line.split("|", 3)
        if not name.startswith(job_prefix(work)) or state in _GONE:
            continue
        if state == "PENDING":
            waiting.append(number)
            continue
        key = by_comment.get(comment.partition("_wildcards_")[2].strip())
        if key is not None:
            running.setdefault(key, []).append(number)
    if waiting:
        subprocess.run(["scancel", *waiting], check=False)
    return running
