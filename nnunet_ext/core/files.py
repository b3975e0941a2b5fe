"""Files that are whole at every moment: written beside their name and moved there when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_when_complete(path: Path, durable: bool = False, by_process: bool = False) -> Iterator[Path]:
    """Give a temporary sibling to write to; it takes the name ``path`` if nothing is raised, else it is removed.

    Args:
        path: the file. At every moment it is the old one or the whole new one.
        durable: wait until the content is on the disk, so that a power cut does not empty the file either.
        by_process: give every process a name of its own, where several may write the same file. Otherwise there is one
            name, so that the next writer replaces what a killed one has left.
    """
    temporary = path.with_name(f".{os.getpid()}-{path.name}" if by_process else f"{path.name}.partial")
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    with replaced_when_complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
