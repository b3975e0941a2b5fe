"""The one style of all figures."""

import re
from pathlib import Path

import matplotlib as mpl

from nnunet_ext.core.figure_style import figure_style

ROOT = Path(__file__).parents[2]


def test_settings_of_others_do_not_reach_a_figure_and_come_back():
    with mpl.rc_context({"font.size": 30, "axes.titlesize": 40, "lines.linewidth": 9}):
        with figure_style():
            assert (mpl.rcParams["font.size"], mpl.rcParams["axes.titlesize"]) == (9, "large")
            assert mpl.rcParams["lines.linewidth"] == mpl.rcParamsDefault["lines.linewidth"]
        assert mpl.rcParams["font.size"] == 30


def test_every_module_that_draws_uses_it():
    drawing = [
        file
        for folder in ("nnunet_ext", "benchmarks", "scripts")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"\bFigure\(|pyplot", file.read_text(encoding="utf-8").replace("No pyplot", ""))
    ]
    assert len(drawing) >= 5
    assert [file for file in drawing if "figure_style()" not in file.read_text(encoding="utf-8")] == []
