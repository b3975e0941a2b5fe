import math

import numpy as np
import pytest

from nnunet_ext.evaluation.confusion import ConfusionCounts
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.distances import Distances, SurfaceDistances
from nnunet_ext.evaluation.metrics import (
    METRICS,
    absent_distance_metrics,
    distance_metrics,
    metric,
    metric_names,
    overlap_metrics,
    presence,
    relative_dice,
)

LISTS = SurfaceDistances(pred_to_ref=Distances.of([0.0, 1.0, 5.0]), ref_to_pred=Distances.of([2.0]))


def test_overlap_by_hand():
    values = overlap_metrics(ConfusionCounts(tp=6, fp=2, fn=4, tn=88), voxel_ml=0.5, conventions=Conventions())
    assert values == pytest.approx(
        {
            "Dice": 12 / 18,
            "IoU": 0.5,
            "VOE": 50.0,
            "VD_ml": -1.0,
            "RVD": -20.0,
            "RAVD": 20.0,
            "Precision": 0.75,
            "Recall": 0.6,
            "Specificity": 88 / 90,
            "Accuracy": 0.94,
        }
    )


def test_lits_denominator_is_the_prediction():
    values = overlap_metrics(ConfusionCounts(6, 2, 4, 88), 1.0, Conventions(volume_denominator="prediction"))
    assert values["RVD"] == pytest.approx(100 * (10 - 8) / 8)


@pytest.mark.parametrize(("absent", "relative"), [("diagonal", 100.0), ("infinity", math.inf), (7.0, 100.0)])
def test_a_false_positive_has_the_worst_values(absent, relative):
    values = overlap_metrics(ConfusionCounts(0, 5, 0, 95), 1.0, Conventions(absent_distance=absent))
    assert [values[n] for n in ("Dice", "IoU", "Precision", "Recall")] == [0, 0, 0, 0]
    assert values["VOE"] == 100 and values["RVD"] == values["RAVD"] == relative


def test_distances_by_hand():
    values = distance_metrics(LISTS, Conventions(nsd_tolerances_mm=(1.0, 2.0)))
    pooled = [0, 1, 5, 2]
    assert values["ASD"] == 2 and values["ASD_ref_to_pred"] == 2 and values["HD"] == 5
    assert values["ASSD"] == pytest.approx(2.0) and values["MASD"] == pytest.approx(2.0)
    assert values["RMSD"] == pytest.approx(math.sqrt(30 / 4)) and values["RMSE"] == pytest.approx(math.sqrt(26 / 3))
    assert values["HD95_pooled"] == pytest.approx(np.percentile(pooled, 95))
    assert values["HD95"] == values["HD95_max_of_sides"] == pytest.approx(np.percentile([0, 1, 5], 95))
    assert values["NSD_1mm"] == 0.5 and values["NSD_2mm"] == 0.75


def test_conventions_decide_between_sides():
    lists = SurfaceDistances(Distances.of([0.0, 1.0, 5.0]), Distances.of([4.0]))
    pooled = distance_metrics(lists, Conventions())
    sides = distance_metrics(lists, Conventions(averaging="mean_of_sides", percentile_rule="pooled"))
    assert pooled["ASSD"] == 2.5 and sides["ASSD"] == sides["MASD"] == pooled["MASD"] == 3.0
    assert sides["RMSD"] == pytest.approx((math.sqrt(26 / 3) + 4) / 2)
    assert sides["HD95"] == sides["HD95_pooled"] == pooled["HD95_pooled"] != pooled["HD95"]


@pytest.mark.parametrize(("absent", "expected"), [("diagonal", 13.0), ("infinity", math.inf), (99.0, 99.0), (0.0, 0.0)])
def test_penalty_for_an_absent_class(absent, expected):
    values = absent_distance_metrics((6, 4), (2.0, 1.25), Conventions(absent_distance=absent))
    assert values["ASSD"] == values["HD95"] == values["ASD"] == values["RMSE"] == pytest.approx(expected)
    assert values["NSD_1mm"] == 0


def test_every_metric_is_given_under_all_conditions():
    conventions = Conventions()
    whole = overlap_metrics(ConfusionCounts(1, 1, 1, 1), 1.0, conventions) | distance_metrics(LISTS, conventions)
    penalty = absent_distance_metrics((4, 4), (1, 1), conventions)
    assert set(whole) == set(metric_names(conventions))
    assert set(penalty) == set(distance_metrics(LISTS, conventions))


def test_presence():
    found = [presence(ConfusionCounts(*c)) for c in ((0, 1, 1, 0), (0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 2))]
    assert found == ["both", "missed", "false_positive", "absent"]


def test_relative_dice():
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    assert relative_dice(a, b) == 0.5
    assert relative_dice(a & ~a, b & ~b) == 1.0


def test_direction_turns_into_loss():
    assert METRICS["Dice"].loss([0.2, 0.9]).argmin() == 1
    assert METRICS["RVD"].loss([-30, 10]).argmin() == 1
    assert metric("NSD_2.5mm").direction == "higher"
    with pytest.raises(KeyError):
        metric("Dize")
