"""Curves of the terms of a loss: means over an epoch, and what a resumed run repeats."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from nnunet_ext.training.curves import LossCurves, mean_of_known, panels


def test_curves_forget_what_a_resumed_run_repeats(tmp_path):
    curves = LossCurves()
    for epoch in range(4):
        curves.log(epoch, {"a": epoch, "b": -epoch})
    resumed = LossCurves()
    resumed.load_state_dict(curves.state_dict())
    resumed.log(2, {"a": 20.0, "b": 0.0})
    assert list(resumed.table()["a"]) == [0, 1, 20]
    assert len(curves) == 4
    resumed.write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss_terms.csv", "loss_terms.png"]
    LossCurves().write(tmp_path / "nowhere")  # nothing logged, nothing written


def test_a_term_that_some_steps_lack_is_the_mean_of_the_others(tmp_path):
    assert mean_of_known([1.0, np.nan, 4.0]) == 2.5
    assert np.isnan(mean_of_known([np.nan, np.nan]))
    curves = LossCurves()
    curves.log(0, {"a": 1.0})
    curves.log(1, {"a": 2.0, "liver: predicted": np.nan, "liver: prior": 0.1})
    curves.write(tmp_path)
    written = pd.read_csv(tmp_path / "loss_terms.csv")
    assert written["liver: prior"].isna().tolist() == [True, False]
    assert written["liver: predicted"].isna().all()


def test_terms_of_a_kind_share_a_panel():
    adversarial = ["basic", "discriminator_1", "adversarial_1", "discriminator_2", "adversarial_2"]
    assert panels(adversarial) == {
        "basic": {"": "basic"},
        "discriminator": {"1": "discriminator_1", "2": "discriminator_2"},
        "adversarial": {"1": "adversarial_1", "2": "adversarial_2"},
    }
    assert panels(["rib_1: prior", "rib_2: prior"]) == {n: {"prior": f"{n}: prior"} for n in ("rib_1", "rib_2")}


@pytest.mark.parametrize("epochs", [1, 2, 7, 1000])
def test_ticks_are_epochs(tmp_path, monkeypatch, epochs):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    curves = LossCurves()
    for epoch in range(epochs):
        curves.log(epoch, {"a": epoch, "b": epoch})
    curves.write(tmp_path)
    low, high = drawn[0].axes[0].get_xlim()
    ticks = [tick for tick in drawn[0].axes[0].get_xticks() if low <= tick <= high]
    assert ticks and all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9, 17])
def test_nothing_is_cut_whatever_nnunet_has_set_before(tmp_path, monkeypatch, number):
    drawn = []

    def keep(figure, *_, **__):
        figure.draw_without_rendering()
        drawn.append((figure, [axis.title.get_fontsize() for axis in figure.axes]))

    monkeypatch.setattr(Figure, "savefig", keep)
    curves = LossCurves()
    for epoch in range(3):
        curves.log(epoch, {f"a term of some name {'abcdefghijklmnopq'[i]}": epoch for i in range(number)})
    with mpl.rc_context({"font.size": 30, "axes.titlesize": 40}):
        curves.write(tmp_path, {"a term of some name a": "a title so long that it must go into two lines"})
    ((figure, sizes),) = drawn
    assert max(sizes) < 11
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert len(shown) == number
    edge = figure.bbox
    for axis in shown:
        box = axis.get_tightbbox()
        assert edge.x0 <= box.x0 and box.x1 <= edge.x1 and edge.y0 <= box.y0 and box.y1 <= edge.y1
        titles = [axis.title.get_window_extent() for axis in shown]
    assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])
    assert len({axis.get_position().width.round(6) for axis in shown}) == 1
    assert sum(axis.get_xlabel() == "epoch" for axis in shown) == min(number, figure.axes[0].get_gridspec().ncols)
