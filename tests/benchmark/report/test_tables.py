"""Tables for readers: units, best values, printed numbers, what is missing."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.costs import costs
from nnunet_ext.benchmark.report.ranks import rankings
from nnunet_ext.benchmark.report.scores import Difference, Score, differences, scores, spread
from nnunet_ext.benchmark.report.specification import Setting
from nnunet_ext.benchmark.report.tables import (
    agreement_table,
    as_csv,
    as_frame,
    class_difference_table,
    class_table,
    cost_table,
    difference_table,
    interval,
    published_table,
    rank_table,
    score_table,
    spread_sentence,
    spread_table,
    undefined_table,
)
from tests.benchmark.report.synthetic import CONFIGURATION, MISSING, PLANS, write_work

NAME = "Dataset091_X"
HERE = Setting(NAME, CONFIGURATION, PLANS)


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def exact(work, **changes):
    """Stock has a Dice of exactly 0.8 in every case, MLL of 0.82."""
    still = {"case_std": 0, "training_std": 0, "noise_std": 0}
    write_work(work, {"stock": 0, "MLL": 0.02}, **(still | changes))
    return collect(work)


def test_scores_are_shown_in_the_unit_of_tables_and_the_best_is_bold(tmp_path):
    results = exact(tmp_path, metrics=("Dice", "HD95"))
    found = [s for name in ("Dice", "HD95") for s in scores(results, HERE, name)]
    table = score_table(found, results.specification, "X", ["Dice", "HD95"])
    assert table.head == ("Arm", "Cells", "DSC (%) ↑", "HD95 (mm) ↓")
    assert texts(table) == [
        ["stock", "2/2", "80.00 ± 0.00", "12.00 ± 0.00"],
        ["MLL", "2/2", "82.00 ± 0.00", "10.80 ± 0.00"],
    ]
    assert [[cell.best for cell in row] for row in table.rows] == [[False] * 4, [False, False, True, True]]
    by_class = class_table(found, results.specification, "X", "Dice")
    assert by_class.head == ("Arm", "liver", "spleen", "mean over classes")
    assert r"\textbf{82.00 $\pm$ 0.00}" in by_class.latex() and "**82.00 ± 0.00**" in by_class.markdown()


def test_no_best_where_cells_differ(tmp_path):
    results = exact(tmp_path, without={(NAME, "MLL", 1, 0): MISSING})
    table = score_table(scores(results, HERE, "Dice"), results.specification, "X", ["Dice"])
    assert texts(table) == [["stock", "2/2", "80.00 ± 0.00"], ["MLL", "1/2", "82.00"]]
    assert not any(cell.best for row in table.rows for cell in row)


def test_std_is_over_seeds_where_there_is_one_fold(tmp_path):
    write_work(tmp_path, {"stock": 0}, folds=1, seeds=3, labels=("liver",))
    results = collect(tmp_path)
    (score,) = scores(results, HERE, "Dice")
    table = score_table([score], results.specification, "X", ["Dice"])
    assert table.caption == "X: liver, mean ± std over seeds"
    assert table.rows[0][2].text == f"{100 * score.mean:.2f} ± {100 * score.seed_std:.2f}"


def test_differences_with_interval_p_and_what_is_not_paired(tmp_path):
    results = exact(tmp_path, without={(NAME, "MLL", 1, 0): MISSING})
    found = differences(results, HERE, ["Dice"])
    table = difference_table(found, "X", ["Dice"])
    assert texts(table) == [["MLL", "6", "6", "6", "+2.00 [2.00, 2.00]", "0.031"]]
    assert texts(class_difference_table(found, "X", "Dice")) == [["MLL", *["+2.00 [2.00, 2.00]"] * 3]]


def test_signs_of_differences():
    base = Difference(HERE, "a", "b", None, "HD95", 2, 2, 0, 1, 1, -1.5, -2, -1, 2, 0, 0, 1, 1, pd.Series(dtype=float))
    assert interval(base) == "−1.50 [−2.00, −1.00]"
    assert interval(replace(base, difference=1.5, low=float("nan"))) == "+1.50"
    assert interval(replace(base, difference=0.001, low=-1.0)) == "0.00 [−1.00, −1.00]"


def test_values_that_are_not_defined_are_counted(tmp_path):
    results = exact(tmp_path, undefined={("case_001", "spleen"), ("case_007", "spleen")})
    table = undefined_table(scores(results, HERE, "Dice"), "X")
    assert texts(table) == [["stock, DSC", "12", "10 + 2"], ["MLL, DSC", "12", "10 + 2"]]


@pytest.mark.parametrize(("value", "shown"), [(0.845, "84.50"), (84.5, "84.50"), (1, "100.00")])
def test_printed_numbers_stand_beside_ours(tmp_path, value, shown):
    entry = {"arm": "MLL", "label": "mean", "metric": "Dice", "value": value, "source": "Table 3"}
    results = exact(tmp_path, published=[entry, {**entry, "dataset": 92}, {**entry, "arm": "other", "label": "liver"}])
    specification = results.specification
    table = published_table(scores(results, HERE, "Dice"), specification.published, specification, HERE)
    assert texts(table) == [
        ["MLL", "mean over classes", "DSC (%) ↑", shown, "82.00 ± 0.00", "2/2", "Table 3"],
        ["other", "liver", "DSC (%) ↑", shown, "–", "–", "Table 3"],
    ]
    test_set = HERE._replace(test_set="AMOS")
    assert published_table([], specification.published, specification, test_set) is None


def test_spread_in_words_and_numbers(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.05}, seeds=3, training_std=0.001)
    results = collect(tmp_path)
    one = spread(results, HERE, "Dice")
    words = spread_sentence(one, "X")
    assert words.startswith("X, DSC: tells these arms apart with 6 trainings of each; spread between arms 3.")
    assert words.endswith("p < 0.001.") and "(over seeds)" in words
    assert spread_sentence(replace(one, p=0.2), "X").startswith("X, DSC: does not tell these arms apart")
    assert "too little to say" in spread_sentence(replace(one, p=float("nan")), "X")
    assert "fewer than two arms" in spread_sentence(replace(one, p=float("nan"), arms=("stock",)), "X")
    assert "no fold and seed" in spread_sentence(replace(one, p=float("nan"), cells=0), "X")
    (row,) = texts(spread_table([one], results.specification))
    assert row[:3] == ["Dataset091_X, DSC (%)", "2", "6"] and row[-1] == "yes"


def test_ranks_and_agreement(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.05, "GAN": 0.1}, ("Dataset091_X", "Dataset092_Y"))
    (own,) = rankings(collect(tmp_path), "Dice").values()
    assert texts(rank_table(own, ["stock", "MLL", "GAN"], "")) == [
        ["stock", *["3.00 (0 %)"] * 3],
        ["MLL", *["2.00 (0 %)"] * 3],
        ["GAN", *["1.00 (100 %)"] * 3],
        ["Cases that all arms have", *(str(one.cases) for one in own)],
        ["Kendall's tau of resamples", *["1.00 [1.00, 1.00]"] * 3],
    ]
    table = agreement_table({("X", "Y"): 0.5, ("X", "Z"): -1.0, ("Y", "Z"): float("nan")}, "2d")
    assert texts(table) == [["X", "", "0.50", "−1.00"], ["Y", "0.50", "", "–"], ["Z", "−1.00", "–", ""]]


def test_costs_name_the_memory_and_show_gpu_columns_only_for_a_gpu(tmp_path):
    results = exact(tmp_path)
    found = costs(results)
    table = cost_table(found, "X", "stock")
    head = "Arm, Finished, Attempts, CPU hours, Wall hours, of them failed, s an epoch, × stock, Peak RSS (GiB)"
    assert list(table.head[:9]) == head.split(", ")
    assert texts(table)[1][:9] == ["MLL", "2", "2", "0.20", "0.13", "0.00", "30.00", "1.50", "3.00"]
    on_gpu = [replace(c, device=d, gpu_hours=1.0, peak_allocated_bytes=2**31) for c, d in zip(found, "ab", strict=True)]
    table = cost_table(on_gpu, "X", "stock")
    cells = dict(zip(table.head, texts(table)[0], strict=False))
    assert cells["Device"] == "a" and cells["GPU hours"] == "1.00"
    assert cells["Peak allocated (GiB)"] == "2.00" and cells["Peak reserved (GiB)"] == "–"


def test_numbers_in_csv_have_twelve_digits_and_the_mean_is_not_a_class(tmp_path):
    write_work(tmp_path, {"stock": 0}, labels=("mean over classes", "liver"))
    found = scores(collect(tmp_path), HERE, "Dice")
    text = as_csv(as_frame(found, Score))
    (tmp_path / "scores.csv").write_text(text)
    again = pd.read_csv(tmp_path / "scores.csv", float_precision="round_trip")
    assert again["is_mean"].tolist() == [False, False, True]
    assert again["label"].tolist() == ["mean over classes", "liver", "mean over classes"]
    np.testing.assert_allclose(again["mean"], [s.mean for s in found], rtol=1e-11)
    assert list(again.columns[:4]) == ["dataset", "configuration", "plans", "test_set"]
