"""The finished folder takes the name of the dataset."""

from __future__ import annotations

import shutil
from pathlib import Path


def publish(work: Path, target: Path, names: set[str]) -> None:
    """Give the finished folder its name; a dataset that it replaces goes only then.

    Args:
        work: the finished folder.
        target: its name.
        names: relative paths of the dataset's files; others are left from an earlier, interrupted run and go.
    """
    shutil.rmtree(work / "records")
    for path in work.glob("*/*"):
        if path.relative_to(work).as_posix() not in names:
            path.unlink()
    if (work / "imagesUn").is_dir() and not any((work / "imagesUn").iterdir()):
        (work / "imagesUn").rmdir()
    if not target.exists():
        work.replace(target)
        return
    old = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    work.replace(target)
    shutil.rmtree(old)
