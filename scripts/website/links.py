"""Links of the pages to files outside ``docs``, as the site has them; a hook of mkdocs."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")
_MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_COPIES = {page: source for source, page in _MOVED.items()}


def in_repository(page: str) -> str:
    """Path, in the repository, of what a page of the site is made from."""
    if page in _COPIES:
        return _COPIES[page]
    return f"benchmarks/{page}" if page.startswith("results/") else f"docs/{page}"


def site_path(file: str) -> str | None:
    """Path on the site of a file of the repository; None if it is not there."""
    path = PurePosixPath(file)
    if file in _MOVED:
        return _MOVED[file]
    if path.parts[:2] == ("benchmarks", "results"):
        return "/".join(path.parts[1:])
    return "/".join(path.parts[1:]) if path.parts[:1] == ("docs",) else None


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    own = page.file.src_uri
    source = in_repository(own)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        place = site_path(target)
        if place is None:
            return match[0]
        return os.path.relpath(place, posixpath.dirname(own) or ".").replace(os.sep, "/") + (match[2] or "")

    return _LINK.sub(moved, markdown)
