"""Measured numbers in the README, the pages and the list of trainers are those of benchmarks/results."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def measured():
    spec = importlib.util.spec_from_file_location("measured", ROOT / "scripts" / "measured.py")
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their types up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_nothing_is_stale(measured):
    assert measured.problems() == []


def test_every_method_with_results_is_checked(measured):
    checked = {file.stem for file in PAGES if list(measured.sections(file.read_text(encoding="utf-8")))}
    assert {"adversarial", "cascaded", "multi_level", "pann", "sdnet", "datasets", "evaluation"} <= checked
    files = {
        name for file in PAGES for _, names in measured.sections(file.read_text(encoding="utf-8")) for name in names
    }
    assert {"tensor_memory.json", "chaos_t2_multi_level.md", "hippocampus_sdnet.md", *measured.TIMES} <= files


def other(number, by=3):
    digits = len(number.partition(".")[2])
    return f"{float(number) + by * 10.0**-digits:.{digits}f}"


def test_a_row_of_other_numbers_is_noticed(measured):
    """As after new measurements: every number of a row moves a little."""
    rows = missed = 0
    for file in PAGES:
        for section, _ in measured.sections(file.read_text(encoding="utf-8")):
            for row in re.findall(r"^\|.*", section, re.MULTILINE):
                if len(measured._NUMBER.findall(measured._NOT_TEXT.sub(" ", row))) < 3:
                    continue
                moved = re.sub(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)", lambda found: other(found[0]), row)
                heading = "".join(
                    re.findall(rf"^(\|.*\n\|[-|: ]+\n)(?:\|.*\n)*?{re.escape(row)}", section, re.MULTILINE)
                )
                links = "\n".join(f"[x](../../benchmarks/results/{name})" for name in measured._LINK.findall(section))
                rows += 1
                missed += not measured.stale("page", f"## Results\n\n{links}\n\n{heading}{moved}\n")
    assert rows > 30
    assert missed <= 0.05 * rows  # a few numbers of a row may all be there by chance


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("The paper has 0.777 and stock 0.8426.", ["0.777"]),
        ("| `nnUNetTrainerMLL` | 0.8425 | 1.9951 |", []),
        ("| `nnUNetTrainerMLL` | 1.9951 | 0.8425 |", ["1.9951", "0.8425"]),
        ("| `nnUNetTrainerRegionPixel` | 0.8425 | 2.18 |", ["0.8425"]),
        ("| `nnUNetTrainerMLL` | 0.8474 | |", ["0.8474"]),  # of one class alone
    ],
)
def test_numbers_are_those_of_the_trainer_and_the_quantity(measured, line, wrong):
    head = "| trainer | Dice | HD95, mm |\n|---|---|---|\n" if line.startswith("|") else ""
    link = "[x](../../benchmarks/results/hippocampus_multi_level.md)"
    found = measured.stale("page", f"## Results\n\n{link}\n\n{head}{line}\n")
    assert [re.search(r"page: (\S+) is not in", each)[1] for each in found] == wrong


def test_numbers_that_are_not_measured_are_listed_only_where_they_are(measured):
    text = "## Cost\n\n[x](../../benchmarks/results/tensor_memory.json)\n\nThe rate is 0.123.\n"
    assert measured.stale("page", text, {"0.123": "the paper's"}) == []
    assert len(measured.stale("page", text, {"0.123": "", "0.7": ""})) == 1


def test_times_memory_and_gains_follow_the_files(measured, monkeypatch, tmp_path):
    for name in (*measured.TIMES, measured.MEMORY):
        content = json.loads((measured.RESULTS / name).read_text(encoding="utf-8"))
        tables = [content, *content.get("predicted", {}).values()]
        for trainer, values in (pair for table in tables for pair in table.get("trainers", {}).items()):
            if trainer != "nnUNetTrainer":
                key = "ratio" if "ratio" in values else "time_ratio"
                values[key] += 0.5
        (tmp_path / name).write_text(json.dumps(content))
    before = measured.readme()
    assert measured.stale_trainers() == []
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    assert re.search(r"`nnUNetTrainerPaNN` \| 1\.61 \(stage 2\) \| 1\.57 ", measured.readme())
    assert len(set(measured.readme().splitlines()) - set(before.splitlines())) == len(measured.memories())
    monkeypatch.setattr(measured, "measured", lambda name: ())
    stale = "\n".join(measured.stale_trainers())
    assert "nnUNetTrainerMLL: the gain 0.132 is not in the results" in stale
    assert "nnUNetTrainerMLL: the list says 0.96 times stock's time" in stale
