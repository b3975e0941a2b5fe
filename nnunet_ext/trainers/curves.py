"""Curves of loss terms beside nnU-Net's own: ``loss_terms.csv`` and ``loss_terms.png``.

nnU-Net's logger takes a fixed set of keys, so that terms of our own need a place of their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd


class LossCurves:
    """One value per term and epoch, continued across ``--c``."""

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
        partial = csv.with_suffix(".csv.partial")
        table.to_csv(partial, index=False)
        partial.replace(csv)
        _plot(table, csv.with_suffix(".png"))

    def state_dict(self) -> dict[str, Any]:
        """The curves so far."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self._rows = list(state["rows"])


def _plot(table: pd.DataFrame, filename: Path) -> None:
    """One small panel per term: their scales differ by orders of magnitude."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    terms = [name for name in table.columns if name != "epoch"]
    columns = min(3, len(terms))
    rows = -(-len(terms) // columns)
    # No pyplot: its global figures are not ours to touch, and nnU-Net plots with them in the same process.
    figure = Figure(figsize=(4.5 * columns, 2.8 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis, term in zip(axes, terms, strict=False):
        axis.plot(table["epoch"], table[term], marker="." if len(table) < 50 else None)
        axis.set_title(term)
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    for axis in axes[len(terms) :]:
        axis.set_visible(False)
    figure.savefig(filename, dpi=90)
