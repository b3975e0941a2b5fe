"""Finished items of long work, each kept in a file with a fingerprint of all that it was made from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from nnunet_ext.core.files import replaced_when_complete


def fingerprint(*parts: object) -> str:
    """Hash of what decides an item; of each part, its ``repr`` counts."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def file_state(path: Path) -> tuple[int, int]:
    """Size and date of a file, in bytes and ns: whether it is still the same one.

    Raises:
        OSError: it is not there.
    """
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def kept(path: Path, fingerprint: str) -> Any | None:
    """The item that a file holds; None if there is none, or it was made from something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not to be read: it is made again
        return None
    return content.get("record") if isinstance(content, dict) and content.get("fingerprint") == fingerprint else None


def keep(path: Path, fingerprint: str, record: Any) -> None:
    """Keep an item, of values that JSON has; several processes may.

    Raises:
        OSError: the file cannot be written.
    """
    with replaced_when_complete(path, by_process=True) as temporary:
        temporary.write_text(json.dumps({"fingerprint": fingerprint, "record": record}), encoding="utf-8")
