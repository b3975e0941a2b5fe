"""Tables of options in the pages are those of the trainers."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
METHODS = sorted((ROOT / "docs" / "methods").glob("*.md"))


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("option_tables", ROOT / "scripts" / "option_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", METHODS, ids=lambda page: page.stem)
def test_every_method_has_one_that_is_not_stale(tables, page):
    text = page.read_text(encoding="utf-8")
    assert "| option | default | values | paper | what it does |" in text
    assert tables.with_tables(text) == text


def test_a_default_that_has_changed_is_noticed(tables):
    text = (ROOT / "docs" / "methods" / "multi_level.md").read_text(encoding="utf-8")
    stale = text.replace("| `boundary_ramp` | `0.25` |", "| `boundary_ramp` | `0.2` |")
    assert stale != text and tables.with_tables(stale) == text


def test_chosen_options_alone(tables):
    made = tables.option_table("nnUNetTrainerMLN", ["shared_box", "max_rounds"])
    assert [line.split("|")[1].strip() for line in made.splitlines()[2:]] == ["`shared_box`", "`max_rounds`"]
    with pytest.raises(ValueError, match=r"has no option max_round$"):
        tables.option_table("nnUNetTrainerMLN", ["max_round"])
