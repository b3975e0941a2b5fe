"""Box plots and their dots."""

import math
import re

import numpy as np

from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.figures import axis_limits, box_plots
from tests.evaluation.test_statistics import A, B, model


def test_dots_and_tips_go_together():
    svg, tips = box_plots({"a": model(A), "b": model([*B[:5], math.nan])}, ["liver"], "Dice", "f0")
    assert len(tips) == len(A) + len(B) - 1 and tips[0] == "a, c0: 50 %"
    groups = re.findall(r'<g id="dots-f0-\d+-\d+">(.*?)</g>', svg, re.DOTALL)
    assert sum(g.count("<use") for g in groups) == len(tips)


def test_one_outlier_does_not_flatten_the_boxes():
    bulk = np.linspace(0.9, 0.95, 20)
    low, high = axis_limits([np.append(bulk, 0.0), bulk])
    assert low > 0.8 and high < 1
    assert axis_limits([np.array([0.0, 1.0]), np.array([0.5])])[0] < 0
    assert all(map(math.isfinite, axis_limits([np.array([math.inf, 3.0])])))
    svg, _ = box_plots({"a": model([*bulk, 0.0, math.nan])}, ["liver"], "Dice", "f0")
    assert "1 value lies beyond the axis" in svg
    infinite = model([1.0, math.inf, 2.0], metric="HD95", conventions=Conventions(absent_distance="infinity"))
    svg, tips = box_plots({"a": infinite}, ["liver"], "HD95", "f1")
    assert "1 value lies beyond the axis" in svg and tips[1] == "c1: inf mm"


def test_a_mean_is_never_beyond_the_axis():
    from nnunet_ext.evaluation.figures import axis_limits

    values = np.array([*np.linspace(99.5, 100, 20), 20.0])  # one case pulls the mean below the box
    low, high = axis_limits([values])
    assert 20 < low < values.mean() < high  # the distant case itself stays a triangle
    assert axis_limits([np.array([1.0, np.inf])]) == (0.5, 1.5)
