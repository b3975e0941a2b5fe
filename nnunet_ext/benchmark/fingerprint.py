"""What a cell was made from, as hashes: two cells may be compared only where these agree."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nnunet_ext.evaluation.conventions import Conventions

_ENDS = 64 * 1024


def of_data(value: Any) -> str:
    """Hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def of_file(path: Path) -> str:
    """Hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _read(file)


def _read(file: Any) -> str:  # Python 3.10
    made = hashlib.sha256()
    while block := file.read(1 << 20):
        made.update(block)
    return made.hexdigest()


def of_files(folder: Path, files: Iterable[Path], ends_only: bool = False) -> str:
    """Hash of the names and the content of files.

    Args:
        folder: that names are relative to.
        files: any order.
        ends_only: of each file its size, first and last 64 KiB alone, as hundreds of GB would take hours.
    """
    made = hashlib.sha256()
    for path in sorted(files):
        made.update(path.relative_to(folder).as_posix().encode())
        if not ends_only:
            made.update(of_file(path).encode())
            continue
        size = path.stat().st_size
        made.update(str(size).encode())
        with path.open("rb") as file:
            made.update(file.read(_ENDS))
            if size > _ENDS:
                file.seek(max(_ENDS, size - _ENDS))
                made.update(file.read(_ENDS))
    return made.hexdigest()


def of_metrics(
    conventions: Conventions, merged: Mapping[str, Iterable[str]], metrics: Iterable[str], postprocessing: str = "none"
) -> str:
    """Hash of how predictions are scored."""
    parts = {name: list(labels) for name, labels in merged.items()}
    scored = [conventions.to_dict(), parts, sorted(metrics)]
    return of_data(scored if postprocessing == "none" else [*scored, postprocessing])


def version(package: str) -> str:
    """Version of an installed package; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
