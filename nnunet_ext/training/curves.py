"""Curves of loss terms beside nnU-Net's own: ``loss_terms.csv`` and ``loss_terms.png``.

nnU-Net's logger takes a fixed set of keys, so that terms of our own need a place of their own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.core.files import replaced_when_complete


def mean_of_known(values: Iterable[float]) -> float:
    """Mean of a term over the steps that had it; NaN marks those that had not, and is the mean of none."""
    known = [float(value) for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


class LossCurves:
    """One value per term and epoch, continued across ``--c``.

    Terms called ``name: variant`` share the panel ``name`` of the plot.
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

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write the CSV file and the plot into ``folder``; nothing if nothing was logged."""
        if not self._rows:
            return
        table = self.table()
        csv = Path(folder) / "loss_terms.csv"
        with replaced_when_complete(csv) as temporary:
            table.to_csv(temporary, index=False)
        _plot(table, csv.with_suffix(".png"))

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._rows = list(state["rows"])


def _plot(table: pd.DataFrame, filename: Path) -> None:
    """One small panel per term, or group of them: their scales differ by orders of magnitude."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: dict[str, list[str]] = {}
    for term in table.columns.drop("epoch"):
        panels.setdefault(term.partition(": ")[0], []).append(term)
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    # No pyplot: its global figures are not ours to touch, and nnU-Net plots with them in the same process.
    figure = Figure(figsize=(4.5 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis, (panel, terms) in zip(axes, panels.items(), strict=False):
        for term in terms:
            axis.plot(
                table["epoch"], table[term], marker="." if len(table) < 50 else None, label=term.partition(": ")[2]
            )
        if len(terms) > 1:
            axis.legend()
        axis.set_title(panel)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(filename, dpi=90)
