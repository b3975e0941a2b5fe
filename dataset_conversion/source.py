"""What a user points a converter at: folders and archives, minus the junk that operating systems leave in them."""

from __future__ import annotations

import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nnunet_ext.core.errors import UserError

ARCHIVE_ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_READ_ERRORS = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError, RuntimeError, NotImplementedError)


def is_junk(name: str) -> bool:
    """Whether a file or folder name is hidden, AppleDouble (``._x``) or left by an archiver."""
    return name.startswith(".") or name in {"__MACOSX", "Thumbs.db", "desktop.ini"}


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``liver_2`` comes before ``liver_10``."""
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", name))


def children(folder: Path) -> list[Path]:
    """Files and folders directly in ``folder``, naturally sorted, junk left out."""
    return sorted((p for p in folder.iterdir() if not is_junk(p.name)), key=lambda p: natural_key(p.name))


def files_below(folder: Path) -> Iterator[Path]:
    """All files below ``folder``, junk left out, folder by folder in natural order.

    A link to a file that is gone is given like a file, so that whoever opens it says so; a link to a folder above
    itself is passed over.
    """
    for path in children(folder):
        if path.is_dir():
            if not _leads_up(path):
                yield from files_below(path)
        elif is_there(path):
            yield path


def folders_in(folder: Path) -> list[Path]:
    """Folders directly in ``folder``, naturally sorted, junk and links to folders above it left out."""
    return [path for path in children(folder) if path.is_dir() and not _leads_up(path)]


def is_there(path: Path) -> bool:
    """Whether a name is that of a file, or of a link to one, even if what it leads to is gone."""
    return path.is_file() or (path.is_symlink() and not path.is_dir())


def _leads_up(path: Path) -> bool:
    """Whether a folder is a link to one that holds it."""
    return path.is_symlink() and path.resolve() in (path.parent.resolve(), *path.parent.resolve().parents)


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive that can be unpacked here."""
    return path.name.lower().endswith(ARCHIVE_ENDINGS)


@contextmanager
def opened(source: Path, scratch: Path) -> Iterator[tuple[Path, bool]]:
    """Give a folder to look for cases in, unpacking archives first.

    ``source`` may be a folder, an archive, or a folder that holds archives and no other data. Archives are unpacked
    below ``scratch``, from where they are removed at the end; only after an interruption the next run finds them.

    Args:
        source: what the user named.
        scratch: a folder on the disk of the dataset to be written; need not exist.

    Yields:
        The folder, and whether it is a temporary one.

    Raises:
        UserError: ``source`` does not exist or is an unreadable archive.
    """
    if not source.exists():
        raise UserError(f"{source} does not exist.")
    archives = _archives(source)
    if not archives:
        if not source.is_dir():
            raise UserError(f"{source} is neither a folder nor an archive ({', '.join(ARCHIVE_ENDINGS)}).")
        yield source, False
        return
    try:
        for archive in archives:
            _unpack(archive, scratch / archive.name)
        yield scratch, True
    except UserError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    shutil.rmtree(scratch)


def _archives(source: Path) -> list[Path]:
    if source.is_file():
        return [source] if is_archive(source) else []
    entries = children(source)
    # beside unpacked data an archive is what it was unpacked from
    if any(entry.is_dir() or entry.name.endswith((".nii", ".nii.gz", ".mhd", ".dcm")) for entry in entries):
        return []
    return [entry for entry in entries if is_archive(entry)]


def _unpack(archive: Path, target: Path) -> None:
    status = archive.stat()
    stamp = target.with_name(f"{target.name}.unpacked")
    size_and_time = f"{status.st_size} {status.st_mtime_ns}"
    if stamp.is_file() and stamp.read_text() == size_and_time:
        return
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    try:
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened_zip:
                opened_zip.extractall(target)
        else:
            with tarfile.open(archive) as opened_tar:
                opened_tar.extractall(target, filter="data")
    except _READ_ERRORS as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); download it again.") from error
    stamp.write_text(size_and_time)
