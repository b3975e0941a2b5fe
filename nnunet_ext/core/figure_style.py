"""The look of every figure: colours, and one style whatever was set before.

nnU-Net's own plot, drawn in the same process, sets a font scale of 2.5 for all figures after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.style

# Colours that stay apart for colour-blind readers.
PALETTE = ("#0f766e", "#d97706", "#4f46e5", "#be123c", "#0369a1", "#65a30d", "#a21caf", "#57534e")
INK, MUTED, GRID = "#1f2937", "#6b7280", "#e5e7eb"
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    # Text stays text: the browser sets it in the font of the page.
    "svg.fonttype": "none",
    "svg.hashsalt": "nnunet-ext",
    # A name with two dollar signs is a name, not a formula.
    "text.parse_math": False,
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw and write a figure in here: the user's matplotlibrc and nnU-Net's settings do not reach it.

    Also a decorator of functions that draw one.
    """
    with matplotlib.style.context(["default", _STYLE]):
        yield
