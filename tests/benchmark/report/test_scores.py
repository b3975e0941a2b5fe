"""Scores, paired differences and spread against plain references and known truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import f_oneway, wilcoxon

from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.scores import (
    classes,
    differences,
    paired_by_case,
    per_case,
    scores,
    spread,
    spread_of_cells,
)
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.statistics import bootstrap_interval, holm, scored_by_either
from tests.benchmark.report.synthetic import (
    CONFIGURATION,
    FAILED,
    MISSING,
    PLANS,
    write_cell,
    write_specification,
    write_work,
)

DATASET = "Dataset091_X"
HERE = Setting(DATASET, CONFIGURATION, PLANS)


def write(work, arm, rows, fold=0, seed=0):
    write_cell(work, Cell(DATASET, CONFIGURATION, PLANS, arm, "nnUNetTrainer", fold, seed), rows)


def rows(values, label="liver", name="Dice"):
    return [(case, label, name, value) for case, value in values.items()]


def test_mean_and_spread_over_folds_and_seeds_by_hand(tmp_path):
    write_specification(tmp_path, folds=[0, 1], seeds=[0, 1])
    write(tmp_path, "stock", rows({"a": 0.8, "b": 0.6}), fold=0, seed=0)  # 0.7
    write(tmp_path, "stock", rows({"a": 0.9, "b": 0.7}), fold=0, seed=1)  # 0.8
    write(tmp_path, "stock", rows({"c": 0.5}), fold=1, seed=0)
    write(tmp_path, "stock", rows({"c": 0.8}), fold=1, seed=1)
    (score,) = scores(collect(tmp_path), HERE, "Dice")
    assert (score.arm, score.label, score.folds, score.cells, score.values) == ("stock", "liver", 2, 4, 6)
    assert score.mean == pytest.approx((0.75 + 0.65) / 2)
    assert score.fold_std == pytest.approx(np.std([0.75, 0.65], ddof=1))
    assert score.seed_std == pytest.approx(np.sqrt((np.var([0.7, 0.8], ddof=1) + np.var([0.5, 0.8], ddof=1)) / 2))


def test_the_mean_over_classes_leaves_out_merged_ones_and_what_is_undefined(tmp_path):
    write_specification(tmp_path, folds=[0], merged={"kidneys": ["right", "left"]})
    values = {"right": (0.8, ""), "kidneys": (0.1, 0.1), "left": (0.6, 0.4)}
    write(tmp_path, "stock", [(c, lab, "Dice", v[i]) for i, c in enumerate("ab") for lab, v in values.items()])
    results = collect(tmp_path)
    assert classes(results, HERE) == ["right", "left", "kidneys", None]
    table = per_case(results, HERE, "Dice")
    np.testing.assert_allclose(table[3], [0.7, 0.4])
    by_label = {score.label: score for score in scores(results, HERE, "Dice")}
    assert by_label["right"].mean == pytest.approx(0.8)
    assert (by_label["right"].values, by_label["right"].undefined) == (2, 1)
    assert by_label[None].mean == pytest.approx(0.55)


def test_metrics_of_all_cases_together_are_of_summed_counts(tmp_path):
    """A plain reference: the cases of a cell joined to one, cells by fold; a class in no case has no value."""
    write_specification(tmp_path, folds=[0, 1], metrics=["Dice", "Dice_global"], merged={"both": ["liver", "spleen"]})
    rng = np.random.default_rng()
    expected = {}
    for arm in ("stock", "MLL"):
        by_fold = {}
        for fold in (0, 1):
            found = {label: rng.integers(1, 99, (3, 3)) for label in ("liver", "spleen", "both")}  # cases, counts
            table = []
            for label, counts in found.items():
                for i, (tp, fp, fn) in enumerate(counts):
                    own = (f"case{fold}{i}", label)
                    table += [(*own, "Dice", 2 * tp / (2 * tp + fp + fn)), (*own, "TP", tp), (*own, "FP", fp)]
                    table.append((*own, "FN", fn))
            table += [(f"case{fold}{i}", "kidney", name, 0) for i in range(3) for name in ("Dice", "TP", "FP", "FN")]
            write(tmp_path, arm, table, fold)
            joined = {label: counts.sum(axis=0) for label, counts in found.items()}
            by_fold[fold] = {label: 2 * tp / (2 * tp + fp + fn) for label, (tp, fp, fn) in joined.items()}
            by_fold[fold][None] = (by_fold[fold]["liver"] + by_fold[fold]["spleen"]) / 2
        expected[arm] = {label: (by_fold[0][label] + by_fold[1][label]) / 2 for label in by_fold[0]}
    results = collect(tmp_path)
    made = scores(results, HERE, "Dice_global")
    assert len(made) == 2 * 5
    for score in made:
        if score.label == "kidney":
            assert np.isnan(score.mean)
        else:
            assert score.mean == pytest.approx(expected[score.arm][score.label])
            assert (score.cells, score.values, score.undefined) == (2, 6, 0)


def test_a_class_may_have_the_name_of_the_mean(tmp_path):
    write_specification(tmp_path, folds=[0])
    write(tmp_path, "stock", rows({"a": 0.2}, "mean over classes") + rows({"a": 0.4}))
    by_label = {score.label: score.mean for score in scores(collect(tmp_path), HERE, "Dice")}
    assert by_label == {"mean over classes": pytest.approx(0.2), "liver": pytest.approx(0.4), None: pytest.approx(0.3)}


def test_only_cases_of_the_same_fold_and_seed_are_paired(tmp_path):
    write_specification(tmp_path, folds=[0, 1], seeds=[0, 1])
    write(tmp_path, "stock", rows({"a": 0.8, "b": 0.6}), fold=0, seed=0)
    write(tmp_path, "stock", rows({"a": 0.7, "b": 0.6}), fold=0, seed=1)
    write(tmp_path, "stock", rows({"c": 0.1}), fold=1, seed=0)  # the arm lacks fold 1
    write(tmp_path, "MLL", rows({"a": 0.9, "b": 0.6}), fold=0, seed=0)
    write(tmp_path, "MLL", rows({"a": 0.9, "b": 0.5}), fold=0, seed=1)
    (found,) = differences(collect(tmp_path), HERE, ["Dice"])
    assert (found.arm, found.reference, found.pairs, found.cases, found.left_out) == ("MLL", "stock", 4, 2, 1)
    assert found.per_case.to_dict() == {"a": pytest.approx(0.15), "b": pytest.approx(-0.05)}
    assert found.difference == pytest.approx(0.05)
    assert found.mean_arm - found.mean_reference == pytest.approx(found.difference)
    assert (found.wins, found.losses, found.ties) == (1, 1, 0)


def test_undefined_values_are_paired_as_in_a_comparison(tmp_path):
    write_specification(tmp_path, folds=[0], metrics=["HD95"])
    write(tmp_path, "stock", rows({"a": "", "b": "", "c": 3.0, "d": "inf"}, name="HD95"))
    write(tmp_path, "MLL", rows({"a": "", "b": 50.0, "c": 2.0, "d": "inf"}, name="HD95"))
    (found,) = differences(collect(tmp_path), HERE, ["HD95"])
    # a: in neither label map for both, not scored; b: a false positive of the arm, the reference is right: 0 mm.
    assert found.per_case.to_dict() == {"b": 50.0, "c": -1.0, "d": 0.0}
    assert (found.wins, found.losses, found.ties) == (1, 1, 1)


def test_difference_against_plain_references(tmp_path):
    effects = {"stock": 0, "MLL": 0.01, "SDNet": -0.004}
    write_work(tmp_path, effects, folds=3, seeds=2, cases=7, metrics=("Dice", "HD95"))
    results = collect(tmp_path)
    found = differences(results, HERE, ["Dice", "HD95"])
    for one in found:
        values = results.values
        values = values[(values["metric"] == one.metric)]
        if one.label is not None:
            values = values[values["label"] == one.label]
        wide = values.groupby(["arm", "case", "seed"])["value"].mean().unstack("arm")
        plain = (wide[one.arm] - wide["stock"]).groupby("case").mean()
        assert one.cases == 21 and one.pairs == 42 and one.left_out == 0
        assert one.difference == pytest.approx(plain.mean())
        assert one.p == pytest.approx(wilcoxon(plain).pvalue)
        draws = np.random.default_rng(1).choice(plain, size=(4000, plain.size)).mean(axis=1)
        assert (one.low, one.high) == pytest.approx(np.percentile(draws, (2.5, 97.5)), abs=0.1 * plain.std())
    for is_main in (True, False):
        family = [one for one in found if (one.label is None) == is_main]
        assert len(family) == (4 if is_main else 8)
        np.testing.assert_allclose([one.p_holm for one in family], holm([one.p for one in family]))


def test_the_interval_covers_the_truth_though_seeds_share_their_cases():
    rng = np.random.default_rng(0)
    truth, described, covered, naive = 0.01, metric("Dice"), 0, 0
    repeats = 150
    index = pd.MultiIndex.from_product([range(30), range(4)], names=["case", "seed"])
    for _ in range(repeats):
        of_case = np.repeat(rng.normal(truth, 0.02, size=30), 4)
        difference = of_case + rng.normal(0, 0.004, size=120)
        reference = rng.uniform(0.7, 0.8, size=120)
        first, second = pd.Series(reference, index), pd.Series(reference + difference, index)
        by_case = paired_by_case(scored_by_either(first, second, described), described)
        low, high = bootstrap_interval(by_case["difference"].to_numpy(), rng, resamples=300)
        covered += low <= truth <= high
        low, high = bootstrap_interval(difference, rng, resamples=300)
        naive += low <= truth <= high
    assert 0.89 <= covered / repeats <= 0.99
    assert naive / repeats < 0.8  # what the clusters are for


def test_spread_over_seeds_is_an_analysis_of_variance(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.01, "GAN": 0.02}, folds=1, seeds=4, labels=("liver",))
    results = collect(tmp_path)
    found = spread(results, HERE, "Dice")
    cells = per_case(results, HERE, "Dice")[0].groupby(["arm", "seed"]).mean()
    expected = f_oneway(*(own.to_numpy() for _, own in cells.groupby("arm")))
    assert (found.f, found.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert found.by == "seeds" and found.cells == 4 and np.isnan(found.over_folds)
    assert found.between == pytest.approx(cells.groupby("arm").mean().std())


def test_spread_over_folds_takes_out_what_makes_folds_hard(tmp_path):
    work = {"folds": 5, "cases": 3, "case_std": 0.1, "training_std": 0.001, "noise_std": 0.001}
    write_work(tmp_path, {"stock": 0, "MLL": 0.01}, **work)
    results = collect(tmp_path)
    found = spread(results, HERE, "Dice")
    cells = per_case(results, HERE, "Dice")[2].groupby(["arm", "fold"]).mean().unstack("arm")
    difference = cells["MLL"] - cells["stock"]
    t = difference.mean() / (difference.std() / np.sqrt(5))
    assert found.f == pytest.approx(t**2)  # two arms: the square of the paired t statistic
    assert found.by == "folds" and found.over_folds > 10 * found.within and found.tells_apart


@pytest.mark.parametrize("seeds", [1, 3])
def test_equal_arms_are_told_apart_as_often_as_the_level_says(seeds):
    rng, told, repeats = np.random.default_rng(0), 0, 300
    index = pd.MultiIndex.from_product([range(4), range(seeds)], names=["fold", "seed"])
    for _ in range(repeats):
        cells = rng.normal(size=(4 * seeds, 3)) + np.repeat(rng.normal(0, 5, size=(4, 1)), seeds, axis=0)
        told += bool(spread_of_cells(pd.DataFrame(cells, index, list("abc")), HERE, "Dice").tells_apart)
    assert 0.02 <= told / repeats <= 0.09


def test_arms_that_never_change_are_told_apart_only_where_they_differ():
    index = pd.MultiIndex.from_product([range(3), range(2)], names=["fold", "seed"])
    same = pd.DataFrame({"a": 0.5, "b": 0.5}, index)
    assert spread_of_cells(same, HERE, "Dice").tells_apart is None
    assert spread_of_cells(same.assign(b=0.6), HERE, "Dice").tells_apart is True


@pytest.mark.parametrize(("arms", "folds", "seeds"), [(1, 2, 2), (2, 1, 1), (1, 1, 1)])
def test_too_little_to_tell_anything(tmp_path, arms, folds, seeds):
    write_work(tmp_path, dict(list({"stock": 0, "MLL": 0.1}.items())[:arms]), folds=folds, seeds=seeds)
    assert spread(collect(tmp_path), HERE, "Dice").tells_apart is None


def test_spread_uses_the_cells_that_all_arms_have(tmp_path):
    without = {(DATASET, "MLL", 0, 0): FAILED, (DATASET, "stock", 2, 0): MISSING}
    write_work(tmp_path, {"stock": 0, "MLL": 0.01}, folds=4, without=without)
    found = spread(collect(tmp_path), HERE, "Dice")
    assert (found.cells, found.folds) == (2, 2)


def test_arms_without_finished_cells_have_no_scores(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0}, without={(DATASET, "stock", f, 0): FAILED for f in (0, 1)})
    results = collect(tmp_path)
    assert {score.arm for score in scores(results, HERE, "Dice")} == {"MLL"}
    assert differences(results, HERE, ["Dice"]) == []


def test_an_arm_that_joins_leaves_the_intervals_of_the_others(tmp_path):
    write_work(tmp_path, {"stock": 0.0, "A": 0.01, "B": 0.02})
    whole = collect(tmp_path)
    arms = {name: arm for name, arm in whole.content["arms"].items() if name != "A"}
    without = replace(whole, content={**whole.content, "arms": arms})
    (setting,) = whole.settings
    found = [d for d in differences(whole, setting, ["Dice"]) if d.arm == "B"]
    alone = differences(without, setting, ["Dice"])
    assert [(d.label, d.difference, d.low, d.high) for d in found] == [
        (d.label, d.difference, d.low, d.high) for d in alone
    ]
