import pytest

from nnunet_ext.evaluation.scores import chaos_score, sliver07_score


def test_chaos_sample_case():
    """Metrics of the sample case of the official code, points by its formulas."""
    expected = (97.8434 + (100 - 20 * 0.664534) + (100 - 20 / 3 * 0.7341) + (100 - 5 / 3 * 14)) / 4
    assert chaos_score(0.978434, 0.664534, 0.7341, 14.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "points"),
    [((1, 0, 0, 0), 100), ((0.8, 5, 15, 60), 20), ((0.799, 5.01, 15.1, 61), 0), ((0, 100, 900, 900), 0)],
)
def test_chaos_thresholds(values, points):
    assert chaos_score(*values) == pytest.approx(points)


def test_sliver07_second_rater_gets_75():
    assert sliver07_score(6.4, 4.7, 1.0, 1.8, 19.0) == pytest.approx(75)
    assert sliver07_score(6.4, -4.7, 1.0, 1.8, 19.0) == pytest.approx(75)
    assert sliver07_score(0, 0, 0, 0, 0) == 100
    assert sliver07_score(99, 99, 99, 99, 999) == 0


def test_sliver07_references_are_the_users():
    references = {"VOE": 6.4, "RVD": 4.7, "ASSD": 1.0, "RMSD": 1.7, "HD": 19.0}
    assert sliver07_score(0, 0, 0, 1.7, 0, references) == pytest.approx(95)
