import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom import dicom
from nnunet_ext.phantom.chaos import OLD_GREY_VALUES, write_chaos
from tests.dataset_conversion.converting import convert_chaos
from tests.dataset_conversion.dataset_truth import assert_equals, folds, report, snapshot

SHAPE = (8, 20, 24)
PARTS = ("CT", "T1DUAL", "T2SPIR")
FEW = {"numbers": (1, 2), "shape": SHAPE}


def masks(folder: Path, number: int = 1) -> list[Path]:
    return sorted(p for p in folder.rglob("*.png") if f"/{number}/" in str(p))


def slices(folder: Path, number: int = 1, phase: str = "") -> list[Path]:
    return sorted(p for p in folder.rglob("*.dcm") if f"/{number}/" in str(p) and phase in str(p))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("feet_first", [True, False])
def test_equals_truth_in_either_order_of_names(raw, tmp_path, part, feet_first):
    layout = write_chaos(tmp_path / "d", part, feet_first=feet_first, **FEW)
    before = snapshot(layout.folder)
    dataset = convert_chaos(layout.folder, Options(), part)
    assert_equals(dataset, layout)
    assert report(dataset)["warnings"] == {}
    assert snapshot(layout.folder) == before


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("variant", [{"nested": True}, {"batches": True}])
def test_other_folders(raw, tmp_path, part, variant):
    layout = write_chaos(tmp_path / "d", part, **variant, **FEW)
    assert_equals(convert_chaos(layout.folder, Options(), part), layout)


def test_ct_named_img(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", img_names=True, **FEW)
    assert_equals(convert_chaos(layout.folder, Options(), "CT"), layout)


def test_parts_do_not_mix(raw, tmp_path):
    layouts = {part: write_chaos(tmp_path / "d", part, **FEW) for part in PARTS}
    for part, name in zip(PARTS, ("504_CHAOS_CT", "505_CHAOS_T1DUAL", "506_CHAOS_T2SPIR"), strict=True):
        dataset = convert_chaos(tmp_path / "d", Options(), part)
        assert dataset.name == f"Dataset{name}"
        assert_equals(dataset, layouts[part])


def test_downloaded_zips(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    (tmp_path / "zips").mkdir()
    for subset in ("Train", "Test"):
        with zipfile.ZipFile(tmp_path / "zips" / f"CHAOS_{subset}_Sets.zip", "w") as handle:
            for path in (layout.folder / f"{subset}_Sets").rglob("*"):
                handle.write(path, path.relative_to(layout.folder))
    assert_equals(convert_chaos(tmp_path / "zips", Options(), "CT"), layout)
    assert [path.name for path in raw.iterdir()] == ["Dataset504_CHAOS_CT"]


def test_zips_are_not_unpacked_for_a_dataset_that_exists(raw, tmp_path):
    (raw / "Dataset504_CHAOS_CT").mkdir()
    archive = tmp_path / "CHAOS_Train_Sets.zip"
    archive.write_bytes(b"not even a zip")
    with pytest.raises(UserError, match="exists; choose another id"):
        convert_chaos(archive, Options(), "CT")


def test_labelled_folder_alone(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T2SPIR", test_numbers=(), **FEW)
    assert_equals(convert_chaos(layout.folder / "Train_Sets" / "MR", Options(), "T2SPIR"), layout)


def test_ct_masks_may_be_8_bit_or_colour(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    for index, path in enumerate(masks(layout.folder)):
        Image.open(path).convert(("L", "RGB", "1")[index % 3]).save(path)
    assert_equals(convert_chaos(layout.folder, Options(), "CT"), layout)


def test_grey_values_that_stray_within_their_range(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T2SPIR", grey_values={1: 56, 2: 133, 3: 199, 4: 241}, **FEW)
    assert_equals(convert_chaos(layout.folder, Options(), "T2SPIR"), layout)


def test_grey_values_of_no_organ_are_counted(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T2SPIR", **FEW)
    path = masks(layout.folder)[0]
    grey = np.asarray(Image.open(path)).copy()
    grey[0, :3] = 30
    Image.fromarray(grey).save(path)
    dataset = convert_chaos(layout.folder, Options(), "T2SPIR")
    assert_equals(dataset, layout)
    assert report(dataset)["warnings"]["chaosmr_001"][0].startswith("3 mask pixels have a grey value of no organ")


def test_old_release_is_refused(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T2SPIR", grey_values=OLD_GREY_VALUES, **FEW)
    with pytest.raises(UserError, match="grey values of the CHAOS release of 2019"):
        convert_chaos(layout.folder, Options(), "T2SPIR")


def test_swapped_phases_are_told_apart_by_echo_time(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T1DUAL", swap_phases=True, **FEW)
    dataset = convert_chaos(layout.folder, Options(), "T1DUAL")
    assert_equals(dataset, layout)
    assert "InPhase and OutPhase are swapped" in report(dataset)["warnings"]["chaosmr_001"][0]


def test_phases_without_echo_time(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T1DUAL", echo_times=False, **FEW)
    dataset = convert_chaos(layout.folder, Options(), "T1DUAL")
    assert_equals(dataset, layout)
    assert "the folders InPhase and OutPhase were trusted" in report(dataset)["warnings"]["chaosmr_001"][0]


def test_one_folder_without_echo_time_is_refused(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T1DUAL", echo_times=False, batches=True, **FEW)
    with pytest.raises(UserError, match="two echo times are expected, one per phase, and found were none"):
        convert_chaos(layout.folder, Options(), "T1DUAL")


def move(paths: list[Path], millimetres: float) -> None:
    for path in paths:
        x, y, z = (float(v) for v in dicom.pydicom.dcmread(path).ImagePositionPatient)
        dicom.change(path, ImagePositionPatient=[f"{x:.4f}", f"{y:.4f}", f"{z + millimetres:.4f}"])


def change_all(paths: list[Path], **tags) -> None:
    for path in paths:
        dicom.change(path, **tags)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: move(slices(f, 1, "OutPhase"), 1.0), "the two phases have slices up to 1 mm apart"),
        (
            lambda f: change_all(slices(f, 1, "OutPhase"), PixelSpacing=["0.0007", "0.0007"]),
            r"the two phases have pixels of .* and 0.0007 x 0.0007 mm",
        ),
        (
            lambda f: change_all(slices(f, 1, "OutPhase"), ImageOrientationPatient=["0", "1", "0", "1", "0", "0"]),
            "the two phases have slices that are turned against each other",
        ),
        (lambda f: slices(f, 1, "OutPhase")[-1].unlink(), "holds 15 DICOM slices of two phases and .* 8 masks"),
        (lambda f: slices(f, 4, "OutPhase")[-1].unlink(), "the two phases have 8 and 7 slices"),
    ],
)
def test_phases_that_do_not_match(raw, tmp_path, damage, message):
    layout = write_chaos(tmp_path / "d", "T1DUAL", **FEW)
    damage(layout.folder)
    with pytest.raises(UserError, match=message):
        convert_chaos(layout.folder, Options(), "T1DUAL")


def test_test_case_known_for_unequal_phases_is_skipped(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "T1DUAL", test_numbers=(4, 35), **FEW)
    slices(layout.folder, 35, "OutPhase")[-1].unlink()
    dataset = convert_chaos(layout.folder, Options(), "T1DUAL")
    assert report(dataset)["skipped"] == {"chaosmr_035": "its two phases were published with 9 and 8 slices"}
    assert {p.name for p in (dataset / "imagesTs").iterdir()} == {"chaosmr_004_0000.nii.gz", "chaosmr_004_0001.nii.gz"}


@pytest.mark.parametrize("part", PARTS)
def test_unequal_counts(raw, tmp_path, part):
    layout = write_chaos(tmp_path / "d", part, **FEW)
    masks(layout.folder)[2].unlink()
    with pytest.raises(UserError, match=r"DICOM slices.* 7 masks"):
        convert_chaos(layout.folder, Options(), part)


@pytest.mark.parametrize(("part", "mask", "lost"), [("T2SPIR", 2, 0), ("T2SPIR", -1, 0), ("CT", 2, 0), ("CT", 2, -1)])
def test_mask_and_another_slice_missing(raw, tmp_path, part, mask, lost):
    """Counts agree, numbers do not: some masks would lie one slice off."""
    layout = write_chaos(tmp_path / "d", part, **FEW)
    masks(layout.folder)[mask].unlink()
    slices(layout.folder)[lost].unlink()
    with pytest.raises(UserError, match="a mask or a slice is missing or was renamed"):
        convert_chaos(layout.folder, Options(), part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("rename", "message"),
    [
        (lambda path: f"x{path.name}", r"png is not named like the other masks"),
        (lambda path: f"{path.stem[:-3]}990.png", "a mask or a slice is missing or was renamed"),
    ],
)
def test_renamed_mask(raw, tmp_path, part, rename, message):
    layout = write_chaos(tmp_path / "d", part, **FEW)
    path = masks(layout.folder)[2]
    path.rename(path.with_name(rename(path)))
    with pytest.raises(UserError, match=message):
        convert_chaos(layout.folder, Options(), part)


@pytest.mark.parametrize("part", PARTS)
def test_two_slices_that_exchanged_their_names(raw, tmp_path, part):
    layout = write_chaos(tmp_path / "d", part, **FEW)
    first, second = slices(layout.folder, 1, "InPhase" if part == "T1DUAL" else "")[2:4]
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    with pytest.raises(UserError, match="are neighbours in space but not by name"):
        convert_chaos(layout.folder, Options(), part)


@pytest.mark.parametrize("part", ["CT", "T2SPIR"])
def test_masks_in_the_wrong_order(raw, tmp_path, part):
    """The error that CT's head-first names invite."""
    layout = write_chaos(tmp_path / "d", part, numbers=(1,), flip_labels="z", shape=(16, 40, 40))
    with pytest.raises(UserError, match=r"does not lie on its image .* if flipped along z;"):
        convert_chaos(layout.folder, Options(), part)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", range(3))
def test_sound_masks_are_never_doubted(raw, tmp_path, part, seed):
    layout = write_chaos(tmp_path / "d", part, numbers=(1, 2), test_numbers=(), shape=(16, 40, 40), seed=seed)
    assert report(convert_chaos(layout.folder, Options(), part))["warnings"] == {}


def test_training_case_without_masks(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    shutil.rmtree(layout.folder / "Train_Sets" / "CT" / "2" / "Ground")
    with pytest.raises(UserError, match=r"2/DICOM_anon has no label"):
        convert_chaos(layout.folder, Options(), "CT")


def test_damaged_mask(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    path = masks(layout.folder)[1]
    content = bytearray(path.read_bytes())
    content[-14] ^= 255  # the checksum of the pixels, which Pillow does not look at when it loads them
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path.name} is not a readable PNG file"):
        convert_chaos(layout.folder, Options(), "CT")


def test_mask_of_another_size(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    Image.fromarray(np.zeros((5, 5), bool)).save(masks(layout.folder)[1])
    with pytest.raises(UserError, match=r"has \(5, 5\) pixels and its slice"):
        convert_chaos(layout.folder, Options(), "CT")


def test_patient_found_twice(raw, tmp_path):
    layout = write_chaos(tmp_path / "d", "CT", **FEW)
    shutil.copytree(layout.folder / "Train_Sets", layout.folder / "CHAOS_Train_Sets" / "Train_Sets")
    with pytest.raises(UserError, match="are both patient 1; point at one copy"):
        convert_chaos(layout.folder, Options(), "CT")


def test_nothing_found(raw, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="holds no CHAOS T1DUAL case"):
        convert_chaos(tmp_path / "d", Options(), "T1DUAL")


def test_folds_are_the_same_patients_for_both_mr_parts(raw, tmp_path):
    for part in ("T1DUAL", "T2SPIR"):
        write_chaos(tmp_path / "d", part, shape=SHAPE)
    first, second = (folds(convert_chaos(tmp_path / "d", Options(), part)) for part in ("T1DUAL", "T2SPIR"))
    assert first == second
    assert sorted(name for fold in first for name in fold["val"]) == [f"chaosmr_{n:03d}" for n in (1, 2, 3, 5, 8)]


def test_the_folder_to_point_at_is_named(raw, tmp_path):
    for part in ("CT", "T2SPIR"):
        write_chaos(tmp_path / "d", part, **FEW)
    ct = next(p for p in (tmp_path / "d").rglob("Train_Sets/CT") if p.is_dir())
    mr = ct.with_name("MR")
    for wrong, part, right in ((mr, "CT", ct), (ct, "T2SPIR", mr), (ct / "1/Ground", "CT", ct)):
        with pytest.raises(
            UserError, match=f"holds no CHAOS {part} case: it lies in.* point at {re.escape(str(right))}"
        ):
            convert_chaos(wrong, Options(), part)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no folder DICOM_anon .* point at the folder with Train_Sets"):
        convert_chaos(tmp_path / "empty", Options(), "CT")
