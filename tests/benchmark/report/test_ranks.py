"""Ranks on examples made by hand, and their stability where the truth is known."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.ranks import agreement, losses, rank, rank_over, rankings
from nnunet_ext.benchmark.report.specification import Setting
from tests.benchmark.report.synthetic import CONFIGURATION, MISSING, PLANS, write_cell, write_specification, write_work

GROUP = ""


def table(values):
    return pd.DataFrame(values, index=[f"case_{i}" for i in range(len(next(iter(values.values()))))])


def test_ranks_by_hand():
    lost = table({"a": [0.3, 0.1], "b": [0.1, 0.1], "c": [0.2, 0.2], "d": [0.5, 0.5]})
    made = rank("X", "Dice", lost, np.random.default_rng(0))
    assert made.ranks.tolist() == [2.5, 1.0, 2.5, 4.0]
    assert made.cases == 2
    # Resamples: both cases (1/2), the first twice (1/4), the second twice (1/4).
    assert set(map(tuple, made.bootstrap.tolist())) == {(2.5, 1, 2.5, 4), (3, 1, 2, 4), (1.5, 1.5, 3, 4)}
    assert made.first(0) == pytest.approx(0.25, abs=0.05) and made.first(1) == 1.0
    assert made.share(3) == {4.0: 1.0}
    assert sum(made.share(0).values()) == pytest.approx(1)


def test_a_clear_order_never_changes_and_an_unclear_one_does():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(40, 4))
    clear = rank("X", "Dice", table({a: 10 * i + noise[:, i] for i, a in enumerate("abcd")}), rng)
    assert (clear.tau, clear.tau_low) == (1.0, 1.0) and clear.share(0) == {1.0: 1.0}
    unclear = rank("X", "Dice", table({a: noise[:, i] for i, a in enumerate("abcd")}), rng)
    assert unclear.tau < 0.9 and unclear.tau_low <= unclear.tau <= unclear.tau_high


def test_equal_arms_have_no_order():
    made = rank("X", "Dice", table({"a": [1.0, 2.0], "b": [1.0, 2.0]}), np.random.default_rng(0))
    assert made.ranks.tolist() == [1.5, 1.5] and np.isnan(made.tau)
    assert made.first(0) == made.first(1) == 1.0


def test_over_datasets_by_hand():
    rng = np.random.default_rng(0)
    tables = [
        {"a": [1.0], "b": [2.0], "c": [3.0]},
        {"a": [1.0], "b": [3.0], "c": [2.0]},
        {"a": [3.0], "b": [1.0], "c": [2.0]},
    ]
    each = [rank(title, "Dice", table(values), rng) for title, values in zip("XYZ", tables, strict=True)]
    over = rank_over("3 datasets", each)
    np.testing.assert_allclose(over.ranks, [5 / 3, 2, 7 / 3])
    assert over.share(0) == {1.0: 1.0} and over.share(2) == {3.0: 1.0}
    # Of the three pairs of arms, one is turned round from X to Y, two from X to Z, all from Y to Z.
    taus = {pair: round(tau, 3) for pair, tau in agreement(each).items()}
    assert taus == {("X", "Y"): 0.333, ("X", "Z"): -0.333, ("Y", "Z"): -1.0}


def test_signed_errors_do_not_cancel(tmp_path):
    write_specification(tmp_path, folds=[0], metrics=["RVD"])
    for arm, values in (("stock", (5.0, -5.0)), ("MLL", (2.0, 2.0))):
        rows = [(case, "liver", "RVD", v) for case, v in zip("ab", values, strict=True)]
        write_cell(tmp_path, Cell("Dataset091_X", CONFIGURATION, PLANS, arm, "T", 0, 0), rows)
    lost = losses(collect(tmp_path), Setting("Dataset091_X", CONFIGURATION, PLANS), "RVD")
    assert lost.mean().to_dict() == {"stock": 5.0, "MLL": 2.0}


def test_the_order_of_known_effects_is_found(tmp_path):
    effects = {"stock": 0.0, "worse": -0.02, "best": 0.04, "better": 0.02}
    datasets = ("Dataset091_X", "Dataset092_Y", "Dataset093_Z")
    write_work(tmp_path, effects, datasets, folds=2, seeds=2, cases=8, case_std=0.1, metrics=("Dice", "HD95"))
    results = collect(tmp_path)
    for name in ("Dice", "HD95"):
        found = rankings(results, name)
        assert list(found) == [GROUP]
        assert [r.title for r in found[GROUP]] == [*datasets, "3 datasets"]
        for ranking in found[GROUP]:
            assert dict(zip(ranking.arms, ranking.ranks.tolist(), strict=True)) == {
                "stock": 3.0,
                "worse": 4.0,
                "best": 1.0,
                "better": 2.0,
            }
            assert ranking.tau > 0.95
        assert all(a.cases == b.cases == 16 for a, b in pairwise(found[GROUP][:3]))


def test_a_dataset_that_lacks_an_arm_is_ranked_alone(tmp_path):
    datasets = ("Dataset091_X", "Dataset092_Y", "Dataset093_Z")
    without = {("Dataset092_Y", "GAN", fold, 0): MISSING for fold in (0, 1)}
    write_work(tmp_path, {"stock": 0, "MLL": 0.02, "GAN": 0.04}, datasets, without=without)
    *each, over = rankings(collect(tmp_path), "Dice")[GROUP]
    assert [r.arms for r in each] == [("stock", "MLL", "GAN"), ("stock", "MLL"), ("stock", "MLL", "GAN")]
    assert over.title == "2 datasets" and over.arms == ("stock", "MLL", "GAN")


def test_ranks_use_only_cells_that_all_arms_have(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.02}, cases=5, without={("Dataset091_X", "MLL", 1, 0): MISSING})
    (only,) = rankings(collect(tmp_path), "Dice")[GROUP]
    assert only.cases == 5


def test_one_arm_ranks_nothing(tmp_path):
    write_work(tmp_path, {"stock": 0})
    assert rankings(collect(tmp_path), "Dice") == {}
