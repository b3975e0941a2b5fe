"""Every method's page shows its idea in a figure that is what the code draws today."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "methods").glob("*.md"))
LARGEST = 150_000

# A square is 20 pixels of the file, 10 of the page. Its mean colour changes by 14 of 255 at most where text is drawn
# with other hinting or is not smoothed, as on a machine with another FreeType: edges of letters average out. The few
# colours of the file change it by 7. A network that moves by three pixels of the page changes some squares by 46, which
# a mean over the whole figure hides. Words, of which a short one hardly shows in any mean, are compared as such.
SQUARE, CLOSE = 20, 25


@pytest.fixture(scope="module")
def figures():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "scripts" / "website")
        import method_figures

        yield method_figures


def squares(image):
    """Mean colours of the squares of an image."""
    values = np.asarray(image.convert("RGB"), float)
    rows, columns = (length // SQUARE for length in values.shape[:2])
    cut = values[: rows * SQUARE, : columns * SQUARE]
    return cut.reshape(rows, SQUARE, columns, SQUARE, 3).mean((1, 3))


def test_every_page_has_one(figures):
    assert {page.stem for page in PAGES} == set(figures.FIGURES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_figure_is_with_the_idea(page):
    idea = page.read_text(encoding="utf-8").partition("## Idea\n")[2].partition("\n## ")[0]
    ((text, link),) = re.findall(r"!\[([^]]+)\]\(([^)]+)\)", idea)
    assert link == f"../figures/{page.stem}.png"
    assert (page.parent / link).stat().st_size <= LARGEST
    assert len(text.split()) > 10
    assert "The abdomen is synthetic" in idea.replace("\n", " ")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_figure_is_not_stale(figures, page):
    advice = f"python scripts/website/method_figures.py {page.stem}"
    drawn = figures.draw(page.stem)
    with Image.open(figures.FOLDER / f"{page.stem}.png") as kept:
        assert kept.info["Description"] == "\n".join(drawn.words), advice
        image = drawn.image()
        assert kept.size == image.size, advice
        assert np.abs(squares(kept) - squares(image)).max() < CLOSE, advice


def test_a_moved_part_is_noticed(figures, monkeypatch):
    network = figures.Page.network

    def moved(self, rect, *args, **kwargs):
        return network(self, type(rect)(rect.x + 3, rect.y, rect.w, rect.h), *args, **kwargs)

    before = squares(figures.draw("cascaded").image())
    monkeypatch.setattr(figures.Page, "network", moved)
    assert np.abs(squares(figures.draw("cascaded").image()) - before).max() > 1.5 * CLOSE


def test_a_file_is_the_same_at_every_run(figures, tmp_path):
    for name in ("a.png", "b.png"):
        figures.draw("adversarial").save(tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
