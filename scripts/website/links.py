"""Links of the pages to files outside ``docs``, as the site has them; a hook of mkdocs."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

AS_THEY_ARE = ("LICENSE", "CITATION.cff")  # files beside the pages
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?(?=\))")


def in_repository(page: str, copied: Mapping[str, str]) -> str:
    """Path, in the repository, of what a page of the site is made from; ``copied`` has the page of a file."""
    for source, made in copied.items():
        if made == page:
            return source
    return f"benchmarks/{page}" if page.startswith("results/") else f"docs/{page}"


def site_path(file: str, copied: Mapping[str, str]) -> str | None:
    """Path on the site of a file of the repository; None if it is not there."""
    path = PurePosixPath(file)
    if file in copied:
        return copied[file]
    if path.parts[0] == "examples":
        return "examples.md"
    if file in AS_THEY_ARE:
        return file
    if path.parts[:2] == ("benchmarks", "results"):
        return "/".join(path.parts[1:])
    return "/".join(path.parts[1:]) if path.parts[:1] == ("docs",) else None


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    own, copied = page.file.src_uri, config["extra"]["copied"]
    source = in_repository(own, copied)

    def moved(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        place = site_path(target, copied)
        if place is None:
            return match[0]
        return os.path.relpath(place, posixpath.dirname(own) or ".").replace(os.sep, "/") + (match[2] or "")

    return _LINK.sub(moved, markdown)
