"""What the documentation names is there: files, headings, trainers, measured numbers."""

import json
import re
from pathlib import Path

import pytest
import yaml

from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.run_length import strip_run_length

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MOST_LINES, LONGEST_LINE = 120, 200
LARGEST_PICTURE = 200_000
STOCK = {"nnUNetTrainer"}

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def prose(page):
    """The text of a page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page):
    """What a link to a heading of the page is called on GitHub."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_a_front_page():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert max(map(len, lines)) <= LONGEST_LINE


@pages
def test_links_lead_somewhere(page):
    for link in _LINK.findall(prose(page)):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), link


@pytest.mark.parametrize("file", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda file: file.stem)
def test_issue_templates_are_forms(file):
    form = yaml.safe_load(file.read_text(encoding="utf-8"))
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "labels", "body"} == set(form)
    assert [field["id"] for field in form["body"]] and all(field["attributes"]["label"] for field in form["body"])
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_pictures_are_small():
    pictures = [*(ROOT / "docs").rglob("*.png"), *(ROOT / "docs").rglob("*.svg")]
    assert pictures
    assert [picture for picture in pictures if picture.stat().st_size > LARGEST_PICTURE] == []


@pages
def test_trainers_exist(page):
    text = page.read_text(encoding="utf-8")
    here = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks" / "trainers").glob("*.py")) + text
    made = set(re.findall(r"^class (nnUNetTrainer\w*)\(", here, re.MULTILINE))
    named = {strip_run_length(name) for name in re.findall(r"nnUNetTrainer\w*", text)}
    assert named <= {*TRAINERS, *STOCK, *made}


def rows():
    """Cells of the rows of the README's table of trainers, by trainer."""
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) > 1 and cells[1].strip("`") in TRAINERS:
            yield cells[1].strip("`"), cells


def test_predicted_memory_is_that_of_pytorchs_allocator_for_every_trainer():
    result = json.loads((ROOT / "benchmarks/results/tensor_memory.json").read_text())
    compared = result["compared with CPU allocations"]
    assert {name for each in compared.values() for name in each["trainers"]} == {"nnUNetTrainer", *TRAINERS}
    for configuration in compared.values():
        for name, peak in configuration["trainers"].items():
            assert 0.9 < peak["predicted GB"] / peak["allocated GB"] < 1.1, name


def test_every_trainer_is_in_the_readme_with_its_measured_cost_and_gain():
    """What was measured, in ``test_measured.py``."""
    table = dict(rows())
    assert set(table) == set(TRAINERS)
    for name, (_, _, time, _, gain, page) in table.items():
        assert time.partition(" ")[0] == TRAINERS[name].time, name
        assert gain == TRAINERS[name].gain, name
        assert name.removeprefix("nnUNetTrainer") in (ROOT / _LINK.findall(page)[0]).read_text(encoding="utf-8")
