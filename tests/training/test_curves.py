"""Curves of the terms of a loss: means over an epoch, and what a resumed run repeats."""

import numpy as np
import pandas as pd

from nnunet_ext.training.curves import LossCurves, mean_of_known


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
