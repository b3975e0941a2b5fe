"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable


def row(cells: Iterable[object]) -> str:
    """A row of a table; a cell may hold vertical bars, and line breaks become spaces."""
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def table(head: Iterable[str], rows: Iterable[Iterable[object]], numbers: bool = False) -> str:
    """A table in GitHub-flavoured Markdown.

    Args:
        head: names of the columns.
        rows: their cells.
        numbers: all columns but the first are aligned to the right.
    """
    names = list(head)
    rule = ["---", *["---:" if numbers else "---"] * (len(names) - 1)]
    return "\n".join([row(names), row(rule), *map(row, rows)]) + "\n"
