"""PNG masks in all the ways that one and the same picture can be written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.formats.masks import read_mask
from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.chaos import write_chaos
from tests.dataset_conversion.converting import convert_chaos
from tests.dataset_conversion.dataset_truth import assert_equals

GREY = np.random.default_rng(0).choice(np.array([0, 63, 126, 189, 252], np.uint8), (9, 11))
FEW = {"numbers": (1, 2), "test_numbers": (), "shape": (8, 20, 24)}


def palette(grey: np.ndarray, greys: np.ndarray, order: np.ndarray, bits: int = 8) -> Image.Image:
    """Indices ``order[i]`` into a palette that has the grey ``greys[i]`` there."""
    image = Image.fromarray(order[np.searchsorted(greys, grey)].astype(np.uint8), "P")
    colours = np.zeros((2**bits, 3), np.uint8)
    colours[order] = greys[:, None]
    image.putpalette(colours.ravel().tolist())
    return image


GREYS = np.unique(GREY)
SAME = {
    "grey": Image.fromarray(GREY),
    "colour": Image.fromarray(GREY).convert("RGB"),
    "with alpha": Image.fromarray(GREY).convert("LA"),
    "colour with alpha": Image.fromarray(GREY).convert("RGBA"),
    "palette": palette(GREY, GREYS, np.arange(5)),
    "palette in another order": palette(GREY, GREYS, np.array([4, 200, 0, 63, 126])),
    "16 bits": Image.fromarray(GREY.astype(np.uint16) * 257),
    "16 bits, not scaled": Image.fromarray(GREY.astype(np.uint16)),
}


@pytest.mark.parametrize("way", SAME)
def test_the_same_picture_is_the_same_mask(tmp_path, way):
    SAME[way].save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), GREY)


def test_palette_of_4_bits(tmp_path):
    palette(GREY, GREYS, np.array([3, 1, 0, 2, 15]), bits=4).save(tmp_path / "x.png", bits=4)
    np.testing.assert_array_equal(read_mask(tmp_path / "x.png"), GREY)


def colours(**channels: np.ndarray) -> Image.Image:
    none = np.zeros_like(GREY)
    return Image.fromarray(np.dstack([channels.get(c, none) for c in ("red", "green", "blue")]))


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (colours(red=GREY), {}, "it has colours"),
        (colours(blue=GREY), {}, "it has colours"),
        (colours(green=GREY).quantize(8), {}, "it has colours"),
        (Image.fromarray(np.dstack([GREY] * 3 + [255 - GREY])), {}, "are transparent"),
        (Image.fromarray(GREY), {"transparency": 63}, "are transparent"),
        (Image.fromarray(GREY.astype(np.uint16) * 100), {}, "beyond 8 bits"),
        (Image.fromarray(GREY), {"format": "JPEG"}, "not a readable PNG"),
        (
            Image.fromarray(GREY),
            {"save_all": True, "append_images": [Image.fromarray(255 - GREY)]},
            "an animation of 2",
        ),
    ],
)
def test_pictures_that_are_no_masks(tmp_path, image, options, message):
    image.save(tmp_path / "x.png", **options)
    with pytest.raises(UserError, match=rf"x\.png .*{message}"):
        read_mask(tmp_path / "x.png")


def rewrite(folder: Path, change) -> None:
    for path in folder.rglob("*.png"):
        change(np.asarray(Image.open(path).convert("L"))).save(path)


@pytest.mark.parametrize("part", ["CT", "T1DUAL", "T2SPIR"])
def test_palettes_in_a_whole_dataset(raw, tmp_path, part):
    layout = write_chaos(tmp_path / "d", part, **FEW)
    rewrite(layout.folder, lambda grey: palette(grey, np.unique(grey), np.arange(len(np.unique(grey)))[::-1] + 7))
    assert_equals(convert_chaos(layout.folder, Options(), part), layout)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda grey: Image.fromarray(np.zeros_like(grey)),
            "Ground holds no voxel of an organ; mend it, or .* --force",
        ),
        (lambda grey: Image.fromarray(grey // 60), r"\d+ mask pixels have a grey value of no organ and 0 that of one"),
        (lambda grey: Image.fromarray(np.where(grey == 0, 255, 0).astype(np.uint8)), "% of its voxels organs"),
    ],
)
def test_masks_without_organs(raw, tmp_path, change, message):
    layout = write_chaos(tmp_path / "d", "T2SPIR", **FEW)
    rewrite(layout.folder, change)
    with pytest.raises(UserError, match=message):
        convert_chaos(layout.folder, Options(), "T2SPIR")
