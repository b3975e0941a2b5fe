import math

import numpy as np
import pytest

from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.conventions import PRESETS, Conventions
from nnunet_ext.evaluation.targets import LabelScheme, Target, label_scheme
from tests.evaluation.brute_force import directed
from tests.evaluation.folders import LABELS, SPACING, label_map

SCHEME = label_scheme({"labels": LABELS})


@pytest.mark.parametrize("preset", PRESETS)
def test_each_label_as_if_it_were_alone(preset):
    conventions = PRESETS[preset]
    labels = {"background": 0, "liver": 1, "liver tumour": 2} if conventions.lesions_belong_to_organ else LABELS
    scheme = label_scheme({"labels": labels}, conventions)
    ref, pred = label_map(0), label_map(1, 2)
    results = evaluate_pair(ref, pred, SPACING, scheme, conventions)
    options = {"neighbourhood": conventions.border_neighbourhood, "edge_is_surface": conventions.edge_is_surface}
    for target in scheme.targets:
        r, p = np.isin(ref, target.members), np.isin(pred, target.members)
        found = results[target.name]
        assert found.metrics["Dice"] == pytest.approx(2 * (r & p).sum() / (r.sum() + p.sum()))
        pred_to_ref, ref_to_pred = directed(r, p, SPACING, **options)
        pooled = np.concatenate([pred_to_ref, ref_to_pred])
        assert found.metrics["ASSD"] == pytest.approx(pooled.mean())
        assert found.metrics["HD"] == pytest.approx(pooled.max())
        assert found.metrics["ASD"] == pytest.approx(pred_to_ref.mean())
        assert found.counts.tn == (~r & ~p).sum()
        assert found.volume_ref_ml == pytest.approx(r.sum() * math.prod(SPACING) / 1000)


def test_regions_touching_the_edge():
    scheme = LabelScheme((Target("both", "(1, 2)", (1, 2)),), (0, 1, 2))
    ref, pred = label_map(0)[:, 5:15, 3:], label_map(1)[:, 5:15, 3:]  # the boxes fill y
    for edge in (True, False):
        found = evaluate_pair(ref, pred, SPACING, scheme, Conventions(edge_is_surface=edge))["both"]
        pooled = np.concatenate(directed(ref > 0, pred > 0, SPACING, edge_is_surface=edge))
        assert found.metrics["ASSD"] == pytest.approx(pooled.mean())


def test_ignored_voxels_are_neither_counted_nor_surface():
    scheme = label_scheme({"labels": LABELS | {"ignore": 3}})
    ref, pred = label_map(0), label_map(0)
    ref[:, :, 20:] = 3
    pred[:, :, 20:] = 2  # nonsense where nobody annotated
    results = evaluate_pair(ref, pred, SPACING, scheme)
    for result in results.values():
        assert result.metrics["Dice"] == 1 and result.metrics["HD"] == 0
        assert sum(vars(result.counts).values()) == (ref != 3).sum()
    # The object is cut by the ignored region: the cut is no surface.
    solid = np.zeros((6, 6), np.uint8)
    solid[1:5, 1:] = 1
    solid[:, 4:] = 3
    other = np.zeros((6, 6), np.uint8)
    other[1:5, 2:4] = 1
    found = evaluate_pair(solid, other, (1.0, 1.0), label_scheme({"labels": {"background": 0, "a": 1, "ignore": 3}}))[
        "a"
    ]
    expected = np.concatenate(directed(solid == 1, other == 1, (1, 1), ignored=solid == 3))
    assert found.metrics["ASSD"] == pytest.approx(expected.mean())


def test_absent_classes():
    ref, pred = label_map(0), label_map(0)
    pred[pred == 2] = 0
    missed = evaluate_pair(ref, pred, SPACING, SCHEME)["spleen"]
    assert missed.presence == "missed" and missed.metrics["Dice"] == 0
    diagonal = math.dist((0, 0, 0), [n * s for n, s in zip(ref.shape, SPACING, strict=True)])
    assert missed.metrics["HD95"] == missed.metrics["ASSD"] == pytest.approx(diagonal)
    false = evaluate_pair(pred, ref, SPACING, SCHEME)["spleen"]
    assert false.presence == "false_positive" and false.metrics["HD95"] == pytest.approx(diagonal)
    neither = evaluate_pair(pred, pred, SPACING, SCHEME)["spleen"]
    assert neither.presence == "absent" and all(math.isnan(v) for v in neither.metrics.values())
    empty = np.zeros_like(ref)
    assert evaluate_pair(empty, empty, SPACING, SCHEME)["liver"].counts.tn == ref.size


def test_a_single_slice_is_flat():
    ref, pred = label_map(0)[3:4], label_map(1, 1)[3:4]
    found = evaluate_pair(ref, pred, SPACING, SCHEME)["liver"]
    expected = np.concatenate(directed(ref[0] == 1, pred[0] == 1, SPACING[1:]))
    assert found.metrics["ASSD"] == pytest.approx(expected.mean())
    assert found.volume_ref_ml == pytest.approx((ref == 1).sum() * math.prod(SPACING) / 1000)
    assert math.isnan(evaluate_pair(ref, pred, SPACING, SCHEME, flat=True)["liver"].volume_ref_ml)


def test_scores_follow_the_preset():
    ref = label_map(0)
    assert evaluate_pair(ref, ref, SPACING, SCHEME, PRESETS["chaos"])["liver"].metrics["CHAOS_score"] == 100
    assert evaluate_pair(ref, ref, SPACING, SCHEME, PRESETS["sliver07"])["liver"].metrics["SLIVER07_score"] == 100
    assert "CHAOS_score" not in evaluate_pair(ref, ref, SPACING, SCHEME)["liver"].metrics


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="do not fit"):
        evaluate_pair(label_map(0), label_map(0)[1:], SPACING, SCHEME)
