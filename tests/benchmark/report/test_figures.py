"""Figures: nothing is cut, everything is drawn, and the bytes do not depend on who draws."""

from itertools import pairwise
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from nnunet_ext.benchmark.report import figures
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.costs import costs
from nnunet_ext.benchmark.report.ranks import rankings
from nnunet_ext.benchmark.report.scores import differences, scores
from nnunet_ext.benchmark.report.specification import Setting
from tests.benchmark.report.synthetic import CONFIGURATION, FAILED, PLANS, write_rows, write_work

NAME = "Dataset091_AbdomenWithAVeryLongNameOfManyOrgans"
HERE = Setting(NAME, CONFIGURATION, PLANS)
ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "a$b$ <i>&amp;"),
)
ARMS = {
    **{"stock": 0.0, "MLL": 0.02, "MLL_boundary_term_alone": 0.015, "SDNet": 0.01, "PaNN": -0.01},
    **{"RefinedGAN_with_two_discriminators_and_a_name_without_spaces": 0.0, "Cascaded": 0.03, "x_1_": 0.02},
}
SVG = "{http://www.w3.org/2000/svg}"


def drawings(results):
    names = results.specification.arm_names
    metric_scores = scores(results, HERE, "Dice")
    found = differences(results, HERE, ["Dice"])
    main = [d for d in found if d.label == metric_scores[-1].label]
    made = [
        figures.learning_curves(results, HERE),
        figures.class_dots(metric_scores, names),
        figures.class_differences(found, names),
        figures.case_dots(main, names),
        figures.cost_and_gain(costs(results), main, names),
    ]
    made += [figures.rank_plot(own, names, "ranks") for own in rankings(results, "Dice").values()]
    return [drawing for drawing in made if drawing is not None]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    work = tmp_path_factory.mktemp("large")
    write_work(work, ARMS, (NAME, "Dataset092_Y"), folds=2, seeds=2, cases=2, labels=ORGANS)
    return collect(work)


@pytest.fixture
def small(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.02}, (NAME,), folds=1, cases=4, labels=("liver",))
    return collect(tmp_path)


def overlapping(texts):
    spans = sorted((t.get_window_extent().y0, t.get_window_extent().y1) for t in texts if t.get_text())
    return [(low, high) for low, high in pairwise(spans) if low[1] > high[0] + 1]


@pytest.mark.parametrize("size", ["large", "small"])
def test_no_text_is_cut_and_names_of_rows_do_not_overlap(size, request, monkeypatch):
    drawn, write = [], figures.svg_text

    def keep(figure, title, identifier):
        FigureCanvasAgg(figure).draw()
        box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        outside = max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)  # inches
        drawn.append((f"{title}: {outside}", outside > 0.01))
        drawn.extend(
            (f"{title}: overlap", overlapping(axes.get_yticklabels())) for axes in figure.axes if axes.get_visible()
        )
        drawn.extend((f"{title}: narrow", axes.get_window_extent().width < 100) for axes in figure.axes)
        return write(figure, title, identifier)

    monkeypatch.setattr(figures, "svg_text", keep)
    assert len(drawings(request.getfixturevalue(size))) == 6
    assert [title for title, wrong in drawn if wrong] == []


def test_figures_are_valid_and_their_ids_are_theirs(large):
    seen = set()
    for drawing in drawings(large):
        root = ET.fromstring(str(drawing.svg))
        ids = {element.get("id") for element in root.iter() if element.get("id")}
        assert not ids & seen
        seen |= ids
        texts = {"".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")}
        if "class" in drawing.identifier:
            assert {"a$b$ <i>&amp;", "portal vein and splenic vein"} <= texts
        assert "x_1_" in texts


def test_every_case_is_a_dot_with_its_tip(small):
    (found,) = differences(small, HERE, ["Dice"])
    drawing = figures.case_dots([found], ["stock", "MLL"])
    dots = [e for e in ET.fromstring(str(drawing.svg)).iter(f"{SVG}g") if e.get("id", "").startswith("dots-")]
    assert len(dots) == 1 and len(list(dots[0].iter(f"{SVG}use"))) == 4
    case, value = next(iter(found.per_case.items()))
    assert drawing.tips[0] == f"MLL, {case}: {100 * value:+.4g} %"


def test_distant_values_are_triangles_and_counted(small):
    (found,) = differences(small, HERE, ["Dice"])
    found.per_case.iloc[:] = [0.01, 0.02, 0.015, -np.inf]
    drawing = figures.case_dots([found], ["stock", "MLL"])
    assert "1 value lies beyond the axis: triangles" in drawing.svg


def test_what_is_infinite_is_named(small):
    (first, second) = scores(small, HERE, "Dice")
    infinite = type(first)(**{**vars(first), "mean": np.inf})
    assert (
        "Infinite, so not drawn: stock, liver." in figures.class_dots([infinite, second], ["stock", "MLL"]).explanation
    )
    assert figures.class_dots([infinite], ["stock", "MLL"]) is None


def test_long_curves_are_smoothed_and_thinned(tmp_path):
    write_work(tmp_path, {"stock": 0}, (NAME,), folds=1, cases=1, epochs=400)
    results = collect(tmp_path)
    drawing = figures.learning_curves(results, HERE)
    assert "Smoothed as nnU-Net does" in drawing.explanation
    paths = [e.get("d", "") for e in ET.fromstring(str(drawing.svg)).iter(f"{SVG}path")]
    assert 30 < max(d.count("L") for d in paths) <= 200


def test_curves_of_arms_with_other_epochs_are_over_iterations(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0}, (NAME,), folds=1, cases=1)
    path = next(tmp_path.glob("cells/*/*/*/MLL/fold_0/seed_0/record.json"))
    path.write_text(path.read_text().replace('"iterations_per_epoch": 250', '"iterations_per_epoch": 100'))
    assert "Training iteration" in figures.learning_curves(collect(tmp_path), HERE).svg


def test_a_curve_of_one_epoch_is_visible(tmp_path):
    write_work(tmp_path, {"stock": 0}, (NAME,), folds=1, cases=1)
    for path in tmp_path.glob("cells/*/*/*/*/*/*/curves.csv"):
        head = ("epoch", "train_loss", "val_loss", "pseudo_dice", "learning_rate", "seconds")
        write_rows(path, head, [(0, 0.1, 0.2, "", 0.01, 3.0)])
    drawing = figures.learning_curves(collect(tmp_path), HERE)
    assert "<use" in drawing.svg


def test_nothing_to_draw_is_no_figure(tmp_path):
    write_work(
        tmp_path,
        {"stock": 0, "MLL": 0},
        (NAME,),
        without={(NAME, a, f, 0): FAILED for a in ("stock", "MLL") for f in (0, 1)},
    )
    results = collect(tmp_path)
    assert figures.learning_curves(results, HERE) is None
    assert figures.class_dots([], []) is None
    assert figures.class_differences([], []) is None
    assert figures.case_dots([], []) is None
    assert figures.cost_and_gain(costs(results), [], []) is None


def test_the_style_of_the_user_changes_nothing(small):
    first = [drawing.svg for drawing in drawings(small)]
    with mpl.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": None, "lines.linewidth": 9}):
        second = [drawing.svg for drawing in drawings(small)]
        assert mpl.rcParams["font.size"] == 20
    assert first == second


def test_sixteen_arms_have_sixteen_looks():
    assert len({(figures.colour(i), figures.marker(i)) for i in range(16)}) == 16
