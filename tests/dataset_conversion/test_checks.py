import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dataset_conversion import checks
from nnunet_ext.phantom.anatomy import make_phantom
from nnunet_ext.phantom.contrast import CT, MR_T2_SPIR, scan


@pytest.mark.parametrize(
    ("labels", "value"),
    [
        ({"background": 0, "spleen": 1, "liver": 2}, 2),
        ({"background": 0, "liver tumour": 1, "left kidney": 2}, 2),
        ({"background": 0, "HepaticVessel": 1, "portal vein and splenic vein": 2}, None),
        ({"background": 0, "Anterior": 1}, None),
    ],
)
def test_telling_label(labels, value):
    assert checks.telling_label(labels) == value


@pytest.mark.parametrize("organ", ["liver", "spleen", "pancreas", "left_kidney"])
@pytest.mark.parametrize(("contrast", "expected"), [(CT, checks.CT), (MR_T2_SPIR, checks.MR)])
def test_sound_labels_are_plausible(organ, contrast, expected):
    for seed in range(10):
        phantom = make_phantom(seed, (20, 50, 50))
        found = checks.check_orientation(scan(phantom, contrast), phantom.labels([organ]) > 0, expected)
        assert found.plausible and not found.better


@pytest.mark.parametrize(("contrast", "expected"), [(CT, checks.CT), (MR_T2_SPIR, checks.MR)])
@pytest.mark.parametrize("axis", ["z", "y", "x"])
def test_flipped_livers_are_found(contrast, expected, axis):
    for seed in range(10):
        phantom = make_phantom(seed, (20, 50, 50))
        flipped = np.flip(phantom.labels(["liver"]) > 0, "zyx".index(axis))
        assert checks.check_orientation(scan(phantom, contrast), flipped, expected).better == axis


def test_of_several_flips_that_fit_the_simplest_is_named():
    organ = np.zeros((20, 20, 20), bool)
    organ[12:18, 5:9, 6:14] = True  # the same from left to right
    image = np.where(organ, 100, np.where(np.indices(organ.shape).sum(0) % 2, -500, 500))
    assert checks.check_orientation(image, organ[::-1], checks.CT).better == "z"


REAL = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real CT is not at {REAL}")
@pytest.mark.parametrize(
    ("image", "label", "value", "found_flips"),
    [
        ("example_ct", "example_seg_fast_force_split", 5, ["z", "y", "x", "zy", "zx", "yx", "zyx"]),  # liver
        ("example_ct", "example_seg_fast_force_split", 1, ["z", "y", "x", "zy", "zx", "yx", "zyx"]),  # spleen
        ("example_ct", "example_seg_fast_force_split", 7, ["z", "y", "zy", "zx"]),  # pancreas
    ],
)
def test_real_organs(image, label, value, found_flips):
    folder = REAL / "totalsegmentator_examples"
    array, mask = (np.asanyarray(nib.load(folder / f"{name}.nii.gz").dataobj).T for name in (image, label))
    mask = mask == value
    assert checks.check_orientation(array, mask, checks.CT).plausible
    for flip in found_flips:
        turned = np.flip(mask, ["zyx".index(axis) for axis in flip])
        assert checks.check_orientation(array, turned, checks.CT).better


def test_tiny_mask_says_nothing():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, :, :2] = True
    assert checks.check_orientation(np.zeros((4, 4, 4)), mask, checks.CT) is None


def test_integer_labels_keep_integers_as_they_are():
    array = np.ones((2, 2, 2), np.uint8)
    result, rounded = checks.integer_labels(array, Path("x"))
    assert result is array and not rounded
