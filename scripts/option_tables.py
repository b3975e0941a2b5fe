"""Tables of options in the pages, from the trainers' own options.

    python scripts/option_tables.py            writes them
    python scripts/option_tables.py --check    checks alone; exit code 1 if one is stale

A page says where a table stands, of which trainer, and of which options if not of all:

    <!-- options of nnUNetTrainerMLN: max_rounds shared_box -->
    <!-- end of options -->
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_ext.cli.options import OPTION_HEAD, option_rows
from nnunet_ext.core.markdown import table

PAGES = Path(__file__).resolve().parents[1] / "docs"
_PLACE = re.compile(r"(<!-- options of (\w+)(?::([\w\s]+))? -->\n).*?(<!-- end of options -->)", re.DOTALL)


def option_table(trainer: str, chosen: Sequence[str] = ()) -> str:
    """A table in Markdown of all options of a trainer, or of the chosen ones.

    Raises:
        ValueError: the trainer has no such option.
    """
    rows = option_rows(trainer)
    if absent := sorted(set(chosen) - {row[0] for row in rows}):
        raise ValueError(f"{trainer} has no option {', '.join(absent)}")
    shown = ((f"`{name}`", f"`{default}`", *rest) for name, default, *rest in rows if not chosen or name in chosen)
    return table(OPTION_HEAD, shown)


def with_tables(page: str) -> str:
    """The text of a page with its tables as they are to be.

    Raises:
        ValueError: as of :func:`option_table`.
    """
    return _PLACE.sub(lambda at: f"{at[1]}\n{option_table(at[2], (at[3] or '').split())}\n{at[4]}", page)


def main() -> None:
    """Write, or check alone."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    stale = []
    for file in sorted(PAGES.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        made = with_tables(text)
        if made != text and sys.argv[1:]:
            stale.append(f"{file.relative_to(PAGES.parent)}: a table of options is stale: run python {sys.argv[0]}")
        elif made != text:
            file.write_text(made, encoding="utf-8")
    sys.exit("\n".join(stale) if stale else 0)


if __name__ == "__main__":
    main()
