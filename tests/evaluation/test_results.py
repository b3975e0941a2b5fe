import json
import math

import pandas as pd
import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.folders import evaluate_folders
from nnunet_ext.evaluation.results import Evaluation
from tests.evaluation.folders import LABELS, dataset, label_map, write


@pytest.fixture
def evaluation(tmp_path):
    reference, prediction = dataset(tmp_path)
    array = label_map(1)
    write(reference / "case_1.nii.gz", array * (array != 2))  # no spleen: a false positive
    write(prediction / "case_2.nii.gz", label_map(2, 1) * (label_map(2, 1) != 2))  # spleen missed
    return evaluate_folders(reference, prediction)


def test_files_hold_everything(evaluation, tmp_path):
    evaluation.save(tmp_path / "out")
    loaded = Evaluation.load(tmp_path / "out")
    pd.testing.assert_frame_equal(loaded.table, evaluation.table, check_dtype=False)
    assert loaded.conventions == evaluation.conventions and loaded.targets == evaluation.targets
    assert [dict(c) for c in loaded.cases] == [dict(c) for c in evaluation.cases]


def test_counts_and_means(evaluation):
    counts = evaluation.counts()
    assert counts.loc["spleen"].to_dict() == {
        "both": 1, "missed": 1, "false_positive": 1, "absent": 0, "unannotated": 0, "scored": 3,
    }  # fmt: skip
    mean = evaluation.statistics()["mean"]
    assert mean.loc["spleen", "Dice"] == pytest.approx(0.3) and mean.loc["liver", "Dice"] == pytest.approx(0.9)
    assert evaluation.foreground_mean()["Dice"] == pytest.approx(0.6)
    assert evaluation.worst("Dice", 2)["label"].tolist() == ["spleen", "spleen"]
    assert evaluation.worst("HD95", 1)["HD95"].iloc[0] == evaluation.table["HD95"].max()


def test_an_infinite_penalty_reaches_the_mean(tmp_path):
    reference, prediction = dataset(tmp_path)
    write(prediction / "case_2.nii.gz", label_map(2) * (label_map(2) != 2))
    found = evaluate_folders(reference, prediction, conventions=Conventions(absent_distance="infinity"))
    assert math.isinf(found.statistics()["mean"].loc["spleen", "HD95"])
    found.save(tmp_path / "out")
    assert math.isinf(Evaluation.load(tmp_path / "out").foreground_mean()["HD95"])


def test_global_dice_merges_all_cases(evaluation):
    table = evaluation.table[evaluation.table["label"] == "spleen"]
    tp, fp, fn = (table[c].sum() for c in ("TP", "FP", "FN"))
    assert evaluation.dataset_level()["spleen"]["Dice_global"] == pytest.approx(2 * tp / (2 * tp + fp + fn))


def test_a_class_in_no_case_does_not_spoil_the_mean(tmp_path):
    reference, prediction = dataset(tmp_path, labels=LABELS | {"aorta": 3})
    found = evaluate_folders(reference, prediction)
    assert found.counts().loc["aorta", "absent"] == 3 and found.counts().loc["aorta", "scored"] == 0
    assert found.foreground_mean()["Dice"] == pytest.approx(0.9)


@pytest.mark.parametrize("regions", [False, True])
def test_summary_is_a_superset_of_nnunets(tmp_path, regions):
    pytest.importorskip("torch", reason="nnU-Net's own evaluation needs torch")
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder, load_summary_json
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    labels = {"background": 0, "whole": [1, 2], "core": [2]} if regions else LABELS
    reference, prediction = dataset(tmp_path, labels=labels | {"ignore": 3})
    array = label_map(0)
    array[7:, 10:] = 3
    write(reference / "case_0.nii.gz", array)
    keys = [(1, 2), (2,)] if regions else [1, 2]
    theirs = compute_metrics_on_folder(
        str(reference), str(prediction), None, SimpleITKIO(), ".nii.gz", keys, ignore_label=3, num_processes=1
    )
    evaluate_folders(reference, prediction).save(tmp_path / "out")
    ours = load_summary_json(str(tmp_path / "out" / "summary.json"))
    for key in keys:
        assert {k: ours["mean"][key][k] for k in theirs["mean"][key]} == pytest.approx(theirs["mean"][key])
    assert {k: ours["foreground_mean"][k] for k in theirs["foreground_mean"]} == pytest.approx(
        theirs["foreground_mean"]
    )
    for own, case in zip(ours["metric_per_case"], theirs["metric_per_case"], strict=True):
        assert own["reference_file"] == case["reference_file"] and own["prediction_file"] == case["prediction_file"]
        for key in keys:
            assert {k: own["metrics"][key][k] for k in case["metrics"][key]} == pytest.approx(case["metrics"][key])
    assert ours["mean"][keys[0]]["HD95"] > 0


def test_summary_names_conventions(evaluation, tmp_path):
    evaluation.save(tmp_path / "out")
    own = json.loads((tmp_path / "out" / "summary.json").read_text())["nnunet_ext"]
    assert own["conventions"]["border_neighbourhood"] == 6 and own["cases"]["2"]["missed"] == 1
    assert own["labels"]["2"] == {"name": "spleen", "members": [2]}


def test_not_a_result(tmp_path):
    with pytest.raises(UserError, match="holds no result"):
        Evaluation.load(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        Evaluation.load(tmp_path / "none")
