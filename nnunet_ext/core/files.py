"""Files that are whole at every moment: written beside their name and moved there when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nnunet_ext.core.errors import UserError


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


def write_together(folder: Path, files: Mapping[str, str]) -> None:
    """Write results that belong together, in UTF-8; none is replaced before all of them are on the disk.

    Args:
        folder: made where needed.
        files: content by name.

    Raises:
        UserError: The folder cannot be made or a file not be written; the files of an earlier run stay as they were.
    """
    make_folder(folder)
    try:
        with ExitStack() as stack:
            for name, text in files.items():
                temporary = stack.enter_context(replaced_when_complete(folder / name, by_process=True))
                with temporary.open("w", encoding="utf-8", newline="") as stream:
                    stream.write(text)
                    stream.flush()
                    os.fsync(stream.fileno())
    except OSError as error:  # no room on the disk, no permission, a share that went away
        raise not_written(folder, error) from error


def not_written(folder: Path, error: OSError) -> UserError:
    """What to say of an output folder that cannot be written to."""
    return UserError(
        f"cannot write to {folder}: {error.strerror or error}; make room there or choose another folder with -o"
    )


def make_folder(folder: Path) -> None:
    """Make an output folder and its parents.

    Raises:
        UserError: If that is not possible.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {folder}: {error.strerror}; choose another with -o") from error
