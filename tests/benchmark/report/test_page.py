"""The page and its files: useful for every state of a benchmark, self-contained, the same bytes every time."""

import io
import re
from html.parser import HTMLParser
from itertools import pairwise

import pandas as pd
import pytest

from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.report import write_report
from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.page import report_files
from nnunet_ext.core.errors import UserError
from tests.benchmark.report.synthetic import (
    CONFIGURATION,
    FAILED,
    MISSING,
    PLANS,
    write_cell,
    write_specification,
    write_work,
)

NAME, OTHER = "Dataset091_X", "Dataset092_Y"
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """Text outside scripts, ids, and tags that are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.ids, self.text, self.links = [], [], [], "", []
        self.feed(text)
        self.close()
        self.wrong += self.open

    def handle_starttag(self, tag, attributes):
        self.text += " "
        values = dict(attributes)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[key] for key in ("href", "src", "xlink:href") if key in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"script", "style"}:
            self.text += data


def page(work):
    return text_of(report_files(collect(work)))


def text_of(files):
    made = Page(files["report.html"])
    assert made.wrong == []
    assert len(made.ids) == len(set(made.ids))
    # Nothing is fetched, and every link within the page has its target.
    assert all(link.startswith("#") for link in made.links)
    assert {link[1:] for link in made.links} <= set(made.ids)
    return " ".join(made.text.split())


def everything(work, **changes):
    write_work(work, {"stock": 0, "MLL": 0.03}, (NAME, OTHER), seeds=2, metrics=("Dice", "HD95"), **changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished benchmark and the files of its report."""
    work = tmp_path_factory.mktemp("whole")
    everything(work, question="Does the boundary term help?", answer="On these data it does.")
    return work, report_files(collect(work))


def test_a_whole_benchmark(whole):
    text = text_of(whole[1])
    for words in (
        "Does the boundary term help?",
        "On these data it does.",
        "16 of 16 cells finished",
        "stock (reference)",
        f"{NAME}, DSC: tells these arms apart with 4 trainings of each",
        f"{NAME}: mean over classes, mean ± std over folds",
        "Kendall's tau between the rankings of two datasets",
        "Learning curves",
        "DSC: cost beside gain",
        "centres of border voxels",
        "torch 2.10, nnunetv2 2.8.1",
    ):
        assert words in text
    assert "Failed and missing" not in text and "Read this first" not in text


def test_an_unfinished_matrix(tmp_path):
    without = {(NAME, "MLL", 0, 0): FAILED, (NAME, "MLL", 1, 1): MISSING}
    without |= {(OTHER, "stock", fold, seed): MISSING for fold in (0, 1) for seed in (0, 1)}
    everything(tmp_path, without=without)
    text = page(tmp_path)
    assert "10 of 16 cells finished 1 failed 5 missing" in text
    assert "1 failed and 5 missing of 16 cells. Means are over the cells that are finished" in text
    assert f"The reference arm stock has no finished cell, so nothing is compared: {OTHER}." in text
    assert "CUDA out of memory. Tried to allocate 2.00 GiB" in text
    assert "Ranks by DSC" in text


def test_an_arm_stands_where_it_is_trained_alone(tmp_path):
    arms = {"stock": "nnUNetTrainer", "MLL": {"trainer": "nnUNetTrainerMLL", "datasets": [92]}}
    without = {(NAME, "MLL", 0, 0): MISSING, (NAME, "MLL", 1, 0): MISSING}
    write_work(tmp_path, {"stock": 0, "MLL": 0.02}, datasets=(NAME, OTHER), without=without, arms=arms)
    tables = report_files(collect(tmp_path))["tables.md"].split("**")
    first, second = (
        [rows for head, rows in pairwise(tables) if f"{name}: mean over" in head] for name in (NAME, OTHER)
    )
    assert first and "0/2" not in "".join(first) and "MLL" not in "".join(first)
    assert all("MLL" in rows for rows in second)


def test_one_arm(tmp_path):
    write_work(tmp_path, {"stock": 0})
    text = page(tmp_path)
    assert "There is one arm, so nothing is compared." in text
    assert f"{NAME}: mean over classes, mean ± std over folds" in text and "cost of all cells" in text
    assert "Ranks" not in text


def test_one_fold_and_one_class(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.02}, folds=1, labels=("liver",))
    text = page(tmp_path)
    assert f"{NAME}: liver, mean" in text and "1 fold" in text
    assert "too little to say whether another training would give the same order" in text


def test_metrics_of_all_cases_together_are_scored_and_not_compared_case_by_case(tmp_path):
    printed = {"arm": "MLL", "label": "liver", "metric": "Dice_global", "value": 94.53, "source": "Table 1"}
    write_work(tmp_path, {"stock": 0.0, "MLL": 0.05}, metrics=("Dice", "Dice_global"), published=[printed])
    files = report_files(collect(tmp_path))
    text_of(files)
    assert "| MLL | liver | DSC global (%) ↑ | 94.53 |" in files["tables.md"]
    assert "Dice_global" in files["scores.csv"] and "Dice_global" in files["spread.csv"]
    assert "Dice_global" not in files["differences.csv"] + files["ranks.csv"]


def test_all_failed(tmp_path):
    write_work(
        tmp_path, {"stock": 0, "MLL": 0}, without={(NAME, a, f, 0): FAILED for a in ("stock", "MLL") for f in (0, 1)}
    )
    text = page(tmp_path)
    assert "No cell is finished yet." in text and "4 failed of 4 cells" in text
    assert text.count("CUDA out of memory") == 4
    assert f"{NAME}: cost of all cells of an arm" in text


def test_nothing_begun(tmp_path):
    write_specification(tmp_path)
    text = page(tmp_path)
    assert "0 of 4 cells finished 4 missing" in text and "No cell is finished yet." in text


def test_arms_without_a_case_in_common_are_not_ranked(tmp_path):
    write_work(
        tmp_path, {"stock": 0, "MLL": 0.02}, without={(NAME, "stock", 0, 0): FAILED, (NAME, "MLL", 1, 0): FAILED}
    )
    text = page(tmp_path)
    assert f"Not ranked, as no case has been scored by all arms that have begun: {NAME}." in text


def test_names_are_escaped(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.1}, labels=("<b>liver</b>", "spleen"), question="<script>?")
    files = report_files(collect(tmp_path))
    assert "<b>liver" not in files["report.html"] and "<script>?" not in files["report.html"]
    assert "&lt;script&gt;?" in files["report.html"]
    assert "<b>liver</b>" in page(tmp_path)


def test_an_external_test_set_has_a_section_of_its_own(tmp_path):
    write_work(tmp_path, {"stock": 0, "MLL": 0.02})
    for path in tmp_path.glob("cells/*/*/*/*/*/*/metrics.csv"):
        path.with_name("test_AMOS.csv").write_text(path.read_text().replace("case_", "amos_"))
    text = page(tmp_path)
    assert f"{NAME} · test set AMOS External test set, predicted by every finished cell." in text
    assert text.count("cost of all cells") == 1


def test_what_must_not_be_compared_is_refused(tmp_path):
    write_work(tmp_path, {"stock": 0})
    cell = Cell(NAME, CONFIGURATION, PLANS, "MLL", "nnUNetTrainerMLL", 0, 0)
    write_specification(tmp_path, arms={"stock": "nnUNetTrainer", "MLL": "nnUNetTrainerMLL"})
    write_cell(tmp_path, cell, [("case_000", "liver", "Dice", 0.5)], changes={"split": "other"})
    with pytest.raises(UserError, match="must not be compared"):
        write_report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_unknown_preset_is_refused(tmp_path):
    write_work(tmp_path, {"stock": 0}, preset="paper")
    with pytest.raises(UserError, match="unknown preset 'paper'"):
        report_files(collect(tmp_path))


def test_seconds_and_memory_change_costs_alone(tmp_path):
    effects, runs = {"stock": 0, "MLL": 0.02}, []
    for seconds in (20, 33):
        work = tmp_path / str(seconds)
        write_work(work, effects)
        for path in work.glob("cells/*/*/*/*/*/*/record.json"):
            path.write_text(path.read_text().replace('"seconds_per_epoch": 20', f'"seconds_per_epoch": {seconds}'))
        runs.append(report_files(collect(work)))
    changed = {name for name in runs[0] if runs[0][name] != runs[1][name]}
    figure = f"figures/cost-Dice-{NAME}-{CONFIGURATION}-{PLANS}.svg"
    assert changed == {"costs.csv", "costs.md", "costs.tex", "cells.csv", "report.html", figure}


def test_written_files_are_the_same_every_time_and_hold_no_time(whole, tmp_path):
    work, files = whole
    output = tmp_path / "report"
    (output / "figures").mkdir(parents=True)
    (output / "figures" / "of-an-earlier-report.svg").write_text("old")
    (output / "notes.txt").write_text("mine")
    steps = []
    assert write_report(work, output, lambda *step: steps.append(step)) == output / "report.html"
    assert steps == [(1, 2, NAME), (2, 2, OTHER)]
    paths = [path for path in output.rglob("*") if path.is_file()]
    written = {path.relative_to(output).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    assert written == files | {"notes.txt": "mine"}
    assert not any("2026-11-26" in text for name, text in files.items() if name != "cells.csv")
    tables = {"scores", "differences", "ranks", "spread", "costs", "troubles", "cells"}
    assert {name.removesuffix(".csv") for name in files if name.endswith(".csv")} == tables
    # Two datasets: curves, cost, and case, class and class-difference figures of two metrics; and two of ranks.
    assert sum(name.endswith(".svg") for name in files) == 2 * (1 + 1 + 3 * 2) + 2


def test_tables_show_the_numbers_of_the_csv_files(whole):
    files = whole[1]
    scores = pd.read_csv(io.StringIO(files["scores.csv"]))
    assert len(scores) == 2 * 2 * 2 * 3
    shown = re.findall(r"\d+\.\d\d ± \d+\.\d\d", files["tables.md"])
    assert shown[0] == f"{100 * scores['mean'][2]:.2f} ± {100 * scores['fold_std'][2]:.2f}"
    assert files["tables.tex"].count(r"\begin{table}") == files["tables.md"].count("| --- |")
