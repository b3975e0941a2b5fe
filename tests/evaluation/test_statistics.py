import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.metrics import metric_names
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.statistics import as_frame, bootstrap_interval, compare, holm, load_models
from nnunet_ext.evaluation.targets import Target


def model(values, labels=("liver",), conventions=None, metric="Dice"):
    """An evaluation in which one metric has given values, of shape (cases, labels)."""
    conventions = conventions or Conventions()
    array = np.asarray(values, float).reshape(len(values), len(labels))
    rows = [
        dict.fromkeys(metric_names(conventions), 0.5)
        | {"case": f"c{i}", "fold": "", "label": label, "key": str(j + 1), "note": "", "presence": "both"}
        | dict.fromkeys(("TP", "FP", "FN", "TN", "n_ref", "n_pred"), 1)
        | {"volume_ref_ml": 1.0, "volume_pred_ml": 1.0, metric: array[i, j]}
        for i in range(len(values))
        for j, label in enumerate(labels)
    ]
    targets = tuple(Target(label, str(j + 1), (j + 1,)) for j, label in enumerate(labels))
    cases = tuple(
        {
            "case": f"c{i}",
            "fold": "",
            "note": "",
            "reference_file": "r",
            "prediction_file": "p",
            "spacing": [],
            "shape": [],
        }
        for i in range(len(values))
    )
    return Evaluation(pd.DataFrame(rows), targets, conventions, (), cases, "labelsTr", "predictions")


A = [0.5, 0.6, 0.7, 0.8, 0.9, 0.65]
B = [0.6, 0.75, 0.9, 0.81, 0.85, 0.65]


def test_paired_differences_by_hand():
    (result,) = compare({"a": model(A), "b": model(B)}, ["Dice"])
    assert result.difference == pytest.approx(np.mean(np.subtract(B, A)))
    assert (result.wins, result.losses, result.ties, result.n) == (4, 1, 1, 6)
    # Ranks of |d| without the tie: 0.01 -> 1, 0.05 -> 2 (negative), the rest 12. Exact: P(W- <= 2) = 3/32, two-sided.
    assert result.p == pytest.approx(6 / 32)
    assert result.low < result.difference < result.high


def test_lower_is_better_for_distances():
    (result,) = compare({"a": model(A, metric="HD95"), "b": model(B, metric="HD95")}, ["HD95"])
    assert (result.wins, result.losses) == (1, 4) and result.difference > 0


def test_signed_metrics_are_judged_by_their_size():
    first, second = model([-10, 10, -20], metric="RVD"), model([5, -5, 5], metric="RVD")
    (result,) = compare({"a": first, "b": second}, ["RVD"])
    assert (result.wins, result.losses) == (3, 0)


def test_a_false_positive_counts_against_its_model():
    first, second = model([math.nan, 0.8, math.nan]), model([0.0, 0.8, math.nan])
    (result,) = compare({"a": first, "b": second}, ["Dice"])
    assert (result.n, result.wins, result.losses, result.ties) == (2, 0, 1, 1)
    assert result.mean_first == pytest.approx(0.9)


def test_infinite_distances_do_not_break_a_comparison():
    inf = math.inf
    first, second = model([inf, inf, 2, 3], metric="HD95"), model([inf, 1, 2, 4], metric="HD95")
    (result,) = compare({"a": first, "b": second}, ["HD95"])
    assert (result.wins, result.losses, result.ties) == (1, 1, 2)


def test_equal_models():
    (result,) = compare({"a": model(A), "b": model(A)}, ["Dice"])
    assert result.p == result.p_holm == 1.0 and result.low == result.high == 0


def test_mean_over_classes_is_taken_within_a_case():
    labels = ("liver", "spleen")
    first, second = model([[0.5, 0.7]] * 3, labels), model([[0.6, 0.6]] * 3, labels)
    overall = compare({"a": first, "b": second}, ["Dice"])[-1]
    assert overall.label is None and overall.difference == pytest.approx(0)


def test_pairs_and_seed():
    models = {"a": model(A), "b": model(B), "c": model(A[::-1])}
    assert [(r.first, r.second) for r in compare(models, ["Dice"])] == [("a", "b"), ("a", "c")]
    assert len(compare(models, ["Dice"], all_pairs=True)) == 3
    assert as_frame(compare(models, ["Dice"], seed=3)).equals(as_frame(compare(models, ["Dice"], seed=3)))
    with pytest.raises(UserError, match="Dize"):
        compare(models, ["Dize"])


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.9, math.nan, 0.6]), [1.0, math.nan, 1.0])


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(1.0, 2.0, size=40), rng, resamples=400)
        hits += low <= 1.0 <= high
    assert 0.88 <= hits / 200 <= 0.99
    assert all(math.isnan(v) for v in bootstrap_interval(np.array([1.0]), rng))


def saved(tmp_path, **models):
    for name, evaluation in models.items():
        evaluation.save(tmp_path / name)
    return {name: tmp_path / name for name in models}


def test_only_like_is_compared_with_like(tmp_path):
    other = Conventions(border_neighbourhood=26)
    with pytest.raises(UserError, match="border_neighbourhood: 6 and 26"):
        load_models(saved(tmp_path, a=model(A), b=model(B, conventions=other)))
    with pytest.raises(UserError, match="different classes"):
        load_models(saved(tmp_path, a=model(A), b=model(B, labels=("spleen",))))
    with pytest.raises(UserError, match="at least two"):
        load_models(saved(tmp_path, a=model(A)))
    renamed = replace(Conventions(), preset="mine")
    assert len(load_models(saved(tmp_path, a=model(A), b=model(B, conventions=renamed)))[0]) == 2


def test_different_cases(tmp_path):
    folders = saved(tmp_path, a=model(A), b=model(B[:4]))
    with pytest.raises(UserError, match="b lacks c4"):
        load_models(folders)
    models, notes = load_models(folders, common=True)
    assert compare(models, ["Dice"])[0].n == 4 and "4 cases" in notes[0]
