import math

import pytest

from nnunet_ext.evaluation.metrics import metric
from nnunet_ext.evaluation.tables import (
    Cell,
    Table,
    classes_table,
    mean_std,
    metrics_table,
    number,
    p_value,
    summary_table,
)
from tests.evaluation.test_statistics import A, B, model


def test_numbers_for_readers():
    assert [number(v) for v in (1.005, -2.5, math.nan, math.inf, -math.inf)] == ["1.00", "−2.50", "–", "∞", "−∞"]
    assert [p_value(v) for v in (0.0004, 0.0416, math.nan)] == ["<0.001", "0.042", "–"]
    assert mean_std(metric("Dice"), 0.828, 0.053) == "82.80 ± 5.30"
    assert mean_std(metric("HD95"), 3.0, math.nan) == "3.00"


def test_best_is_bold_in_the_direction_of_the_metric():
    models = {"a": model(A), "b": model(B)}
    table = metrics_table(models, "liver", ["Dice", "HD95"])
    assert [[c.best for c in row] for row in table.rows] == [[False, False, True], [False, True, True]]
    assert table.head == ("Model", "DSC (%) ↑", "HD95 (mm) ↓")
    distances = {"a": model(A, metric="HD95"), "b": model(B, metric="HD95")}
    assert metrics_table(distances, "liver", ["HD95"]).rows[0][1].best
    assert not any(c.best for row in metrics_table({"a": model(A)}, "liver", ["Dice"]).rows for c in row)


def test_signed_metric_nearest_to_zero_is_best():
    models = {"a": model([-9.0, -9.0], metric="RVD"), "b": model([2.0, 2.0], metric="RVD")}
    assert [row[1].best for row in metrics_table(models, "liver", ["RVD"]).rows] == [False, True]


def test_classes_as_columns():
    labels = ("liver", "spleen")
    models = {"a": model([[0.5, 0.7], [0.7, 0.9]], labels), "b": model([[0.6, 0.6], [0.6, 0.6]], labels)}
    table = classes_table(models, "Dice")
    assert table.head == ("Model", "liver", "spleen", "mean over classes")
    assert table.rows[0][2].text == "80.00 ± 14.14" and table.rows[0][3].text == "70.00 ± 14.14"
    assert table.rows[0][2].best and table.rows[0][1].best and table.rows[1][1].best  # a tie is best twice
    assert [row[0].text for row in summary_table(models["a"], ["Dice"]).rows] == [
        "liver",
        "spleen",
        "mean over classes",
    ]


@pytest.fixture
def table():
    return Table("50 % & more", ("Model", "DSC (%) ↑"), ((Cell("net_a|b"), Cell("82.80 ± 5.30", best=True)),))


def test_markdown(table):
    assert table.markdown().splitlines() == [
        "**50 % & more**",
        "",
        "| Model | DSC (%) ↑ |",
        "| --- | ---: |",
        "| net_a\\|b | **82.80 ± 5.30** |",
    ]


def test_latex_escapes_what_latex_would_trip_over(table):
    text = table.latex()
    assert r"\caption{50 \% \& more}" in text and r"DSC (\%) $\uparrow$" in text
    assert r"net\_a|b & \textbf{82.80 $\pm$ 5.30} \\" in text
    assert text.isascii() and text.count(r"\begin") == text.count(r"\end") == 2
