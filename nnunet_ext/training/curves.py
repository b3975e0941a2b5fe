"""Curves of loss terms beside nnU-Net's own: ``loss_terms.csv`` and ``loss_terms.png``.

nnU-Net's logger takes a fixed set of keys, so that terms of our own need a place of their own.
"""

from __future__ import annotations

import math
import os
import re
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.core.files import replaced_when_complete

_NUMBERED = re.compile(r"(.+)_(\d+)")
_ONE_ROW, _MOST_COLUMNS = 3, 4  # panels
_DOTS_UNTIL = 50  # epochs
_TITLE_WIDTH = 44  # characters


def mean_of_known(values: Iterable[float]) -> float:
    """Mean of a term over the steps that had it; NaN marks those that had not, and is the mean of none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


class LossCurves:
    """One value per term and epoch, continued across ``--c``.

    Terms called ``name: variant``, or ``name_1`` and ``name_2``, share the panel ``name`` of the plot.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []

    def __len__(self) -> int:
        return len(self._rows)

    def log(self, epoch: int, terms: dict[str, float]) -> None:
        """Record the mean of each term over an epoch; epochs from this one on are forgotten."""
        self._rows = [row for row in self._rows if row["epoch"] < epoch]
        self._rows.append({"epoch": epoch, **terms})

    def table(self) -> pd.DataFrame:
        """One row per epoch, one column per term."""
        return pd.DataFrame(self._rows)

    def write(self, folder: str | os.PathLike[str], titles: Mapping[str, str] | None = None) -> None:
        """Write the CSV file and the plot into ``folder``; nothing if nothing was logged.

        Args:
            folder: of the run.
            titles: of panels, by name; default: the name.
        """
        if not self._rows:
            return
        table = self.table()
        csv = Path(folder) / "loss_terms.csv"
        with replaced_when_complete(csv) as temporary:
            table.to_csv(temporary, index=False)
        _plot(table, csv.with_suffix(".png"), titles or {})

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._rows = list(state["rows"])


def panels(terms: Iterable[str]) -> dict[str, dict[str, str]]:
    """Terms of each panel of the plot, by what they are called in its legend."""
    found: dict[str, dict[str, str]] = {}
    for term in terms:
        name, _, variant = term.partition(": ")
        numbered = None if variant else _NUMBERED.fullmatch(term)
        if numbered:
            name, variant = numbered.groups()
        found.setdefault(name, {})[variant] = term
    return found


def _plot(table: pd.DataFrame, filename: Path, titles: Mapping[str, str]) -> None:
    """One small panel per term, or group of them: their scales differ by orders of magnitude."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    from nnunet_ext.core.figure_style import GRID, PALETTE, figure_style

    drawn = panels(table.columns.drop("epoch"))
    columns = len(drawn) if len(drawn) <= _ONE_ROW else min(_MOST_COLUMNS, math.ceil(math.sqrt(len(drawn))))
    rows = math.ceil(len(drawn) / columns)
    with figure_style():
        # No pyplot: its global figures are not ours to touch, and nnU-Net plots with them in the same process.
        figure = Figure(figsize=(3.6 * columns, 2.3 * rows + 0.2), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
        for axis, (panel, terms) in zip(axes, drawn.items(), strict=False):
            for number, (variant, term) in enumerate(terms.items()):
                axis.plot(
                    table["epoch"],
                    table[term],
                    marker="." if len(table) < _DOTS_UNTIL else None,
                    color=PALETTE[number % len(PALETTE)],
                    label=variant,
                )
            if len(terms) > 1:
                axis.legend(frameon=False, fontsize=8)
            title = titles.get(panel, panel.replace("_", " "))
            axis.set_title("\n".join(textwrap.wrap(title, _TITLE_WIDTH)), fontsize=9.5)
            axis.grid(color=GRID)
            axis.set_axisbelow(True)
            axis.spines[["top", "right"]].set_visible(False)
        if len(table) == 1:
            axes[0].set_xlim(table["epoch"].iloc[0] - 0.5, table["epoch"].iloc[0] + 0.5)
        for axis in axes[len(drawn) :]:
            axis.set_visible(False)
        for axis in axes[max(len(drawn) - columns, 0) : len(drawn)]:  # the lowest of each column
            axis.set_xlabel("epoch")
            axis.tick_params(labelbottom=True)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        figure.savefig(filename, dpi=110)
