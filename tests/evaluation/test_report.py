import json
import re

import pytest

from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.images import find_image
from nnunet_ext.evaluation.overlays import worst_overlays
from nnunet_ext.evaluation.report import comparison_report, evaluation_report
from nnunet_ext.evaluation.statistics import compare
from tests.evaluation.folders import dataset, label_map, write
from tests.evaluation.test_statistics import A, model


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
