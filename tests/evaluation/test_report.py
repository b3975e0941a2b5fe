import json
import math
import re

import numpy as np
import pytest

from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.figures import axis_limits, box_plots
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.overlays import _worst_slice, find_image, worst_overlays
from nnunet_ext.evaluation.report import comparison_report, evaluation_report
from nnunet_ext.evaluation.statistics import compare
from tests.evaluation.folders import dataset, label_map, write
from tests.evaluation.test_statistics import A, B, model


@pytest.fixture
def run(tmp_path):
    reference, prediction = dataset(tmp_path)
    write(prediction / "case_2.nii.gz", label_map(2) * (label_map(2) != 2))
    (prediction / "case_0.nii.gz").unlink()
    content = json.loads((tmp_path / "dataset.json").read_text())
    return evaluate_folders(reference, prediction, allow_missing=True), content


def test_report_is_one_file_that_holds_every_case(run):
    evaluation, content = run
    overlays = worst_overlays(evaluation, content, None, "Dice", 4)
    html = evaluation_report(evaluation, overlays, "A <b> & c")
    assert "A &lt;b&gt; &amp; c" in html
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)|@import', html)  # nothing is fetched
    for case in ("case_0", "case_1", "case_2"):
        assert html.count(case) >= 2
    assert html.count("data:image/png") == 2  # the two worst are a prediction that is not there
    assert "scored as missed" in html and "Class missed: liver in 1 case, spleen in 2 cases" in html
    assert "6-neighbourhood" in html and "image diagonal" in html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    references = set(re.findall(r'(?:xlink:href="|url\()#([^")]+)', html))
    assert references and references <= set(ids)


def test_worst_come_first_and_missing_images_are_said(run, tmp_path):
    evaluation, content = run
    overlays = worst_overlays(evaluation, content, tmp_path / "none", "Dice", 6)
    assert [o.case for o in overlays[:3]] == ["case_0", "case_0", "case_2"]
    assert overlays[0].data_uri == "" and overlays[0].caption.startswith("Nothing to draw")
    assert "image not found" in overlays[2].caption


def test_images_named_in_dataset_json_are_found(tmp_path):
    reference, _ = dataset(tmp_path)
    image = tmp_path / "imagesTr" / "case_0_0000.nii.gz"
    assert find_image("case_0", reference / "case_0.nii.gz", {"file_ending": ".nii.gz"}) == image
    moved = image.rename(tmp_path / "elsewhere.nii.gz")
    for named in (str(moved), "elsewhere.nii.gz"):
        content = {"file_ending": ".nii.gz", "dataset": {"case_0": {"images": [named]}}}
        assert find_image("case_0", reference / "case_0.nii.gz", content) == moved
    assert find_image("case_0", reference / "case_0.nii.gz", {"file_ending": ".nii.gz"}) is None


def test_the_slice_with_most_errors_is_shown():
    ref, pred = np.zeros((5, 4, 4), bool), np.zeros((5, 4, 4), bool)
    ref[:, 1:3, 1:3] = pred[:, 1:3, 1:3] = True
    pred[3] = False
    assert _worst_slice(ref, pred) == (0, 3)


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


def test_comparison_report_names_winner():
    better = [min(1.0, v + 0.02 + 0.001 * i) for i, v in enumerate(A * 4)]
    models = {"stock": model(A * 4), "new": model(better)}
    results = compare(models, ["Dice", "HD95"])
    html = comparison_report(models, results, ["A note."], "stock · new")
    assert "new: DSC better than stock" in html and "new: HD95 no significant difference from stock" in html
    assert "A note." in html and "24 wins, 0 losses" in html
    worse = comparison_report(
        dict(reversed(models.items())), compare(dict(reversed(models.items())), ["Dice"]), [], "x"
    )
    assert "stock: DSC worse than new" in worse


def test_a_mean_is_never_beyond_the_axis():
    from nnunet_ext.evaluation.figures import axis_limits

    values = np.array([*np.linspace(99.5, 100, 20), 20.0])  # one case pulls the mean below the box
    low, high = axis_limits([values])
    assert 20 < low < values.mean() < high  # the distant case itself stays a triangle
    assert axis_limits([np.array([1.0, np.inf])]) == (0.5, 1.5)
