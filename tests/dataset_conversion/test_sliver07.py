import os
import zipfile

import pytest
import SimpleITK as sitk

from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.sliver07 import VARIANTS, write_sliver07
from tests.dataset_conversion.converting import convert_sliver07
from tests.dataset_conversion.dataset_truth import assert_equals, folds, report, snapshot

SHAPE = (8, 20, 24)
FEW = {"numbers": (1, 2), "test_numbers": (1,), "shape": SHAPE}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("file_format", ["mhd", "nii.gz"])
def test_every_variant_equals_truth(raw, tmp_path, variant, file_format):
    layout = write_sliver07(tmp_path / "d", variant=variant, file_format=file_format, **FEW)
    before = snapshot(layout.folder)
    dataset = convert_sliver07(layout.folder, Options())
    assert_equals(dataset, layout)
    assert snapshot(layout.folder) == before


@pytest.mark.parametrize("file_format", ["mhd", "nii.gz"])
@pytest.mark.parametrize("check", ["full", "headers"])
def test_any_value_but_zero_is_liver(raw, tmp_path, file_format, check):
    layout = write_sliver07(tmp_path / "d", label_value=100, file_format=file_format, **FEW)
    assert_equals(convert_sliver07(layout.folder, Options(check=check)), layout)


def test_three_zips(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", variant="official", **FEW)
    (tmp_path / "zips").mkdir()
    for name, folder in (("training-scans", "scan"), ("training-labels", "label"), ("test-scans", "test/scan")):
        with zipfile.ZipFile(tmp_path / "zips" / f"{name}.zip", "w") as handle:
            for path in (layout.folder / folder).iterdir():
                handle.write(path, f"{folder.rpartition('/')[2]}/{path.name}")
    (tmp_path / "zips" / "license.txt").write_text("x")
    assert_equals(convert_sliver07(tmp_path / "zips", Options()), layout)


def test_test_scans_without_a_telling_folder(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", variant="flat", **FEW)
    (layout.folder / "test-scans").rename(layout.folder / "more")
    with pytest.raises(UserError, match="have the same number; test scans must lie in a folder named after 'test'"):
        convert_sliver07(layout.folder, Options())


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("liver-seg002.mhd", r"liver-orig002.mhd has no label"),
        ("liver-orig002.mhd", r"liver-seg002.mhd has no scan"),
        ("liver-orig002.raw", r"liver-orig002.mhd has its voxels in liver-orig002.raw, which is missing"),
    ],
)
def test_missing_file(raw, tmp_path, lost, message):
    layout = write_sliver07(tmp_path / "d", **FEW)
    next(layout.folder.rglob(lost)).unlink()
    with pytest.raises(UserError, match=message):
        convert_sliver07(layout.folder, Options())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "liver-orig002.raw",
            lambda b: b[:-100],
            r"liver-orig002.raw is truncated: liver-orig002.mhd promises",
        ),
        ("liver-orig002.mhd", lambda b: b.replace(b"ElementDataFile", b"x"), "does not name the file with its voxels"),
        ("liver-orig002.mhd", lambda b: b.replace(b"MET_SHORT", b"MET_SHIRT"), "is not a readable MetaImage header"),
        ("liver-seg002.mhd", lambda b: b"", r"liver-seg002.mhd is not a readable MetaImage header"),
    ],
)
def test_damaged_metaimage(raw, tmp_path, name, change, message):
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    path = next(layout.folder.rglob(name))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(UserError, match=message):
        convert_sliver07(layout.folder, Options())


def test_voxels_that_changed_after_an_interruption(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    last = next(layout.folder.rglob("liver-seg002.raw"))
    sound = last.read_bytes()
    first = next(layout.folder.rglob("liver-orig001.raw"))
    voxels = first.read_bytes()
    first.write_bytes(voxels[:-2] + b"\0\0")
    last.write_bytes(b"\xff" * len(sound))  # -1: no label
    with pytest.raises(UserError, match="calls 100% of its voxels organs"):
        convert_sliver07(layout.folder, Options())
    first.write_bytes(voxels)
    last.write_bytes(sound)
    os.utime(first, (1, 1))
    assert_equals(convert_sliver07(layout.folder, Options()), layout)


def test_folds_and_missing_cases(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", shape=SHAPE)
    dataset = convert_sliver07(layout.folder, Options())
    validated = [name for fold in folds(dataset) for name in fold["val"]]
    assert sorted(validated) == sorted(layout.train)
    assert report(dataset)["notes"] == [
        "2 test scans have the file names of training scans; their folder told them apart",
        "15 of 20 labelled cases were not found: 6-20",
    ]


@pytest.mark.parametrize("damage", [lambda content: content[:200], lambda content: b"x" * 5000])
def test_compressed_voxels_that_are_damaged(raw, tmp_path, damage):
    """ITK goes on with what it could decompress."""
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    path = layout.folder / "scan" / "liver-orig002.mhd"
    sitk.WriteImage(sitk.ReadImage(str(path)), str(path), True)
    voxels = path.with_suffix(".zraw")
    sound = voxels.read_bytes()
    voxels.write_bytes(damage(sound))
    with pytest.raises(UserError, match=r"liver-orig002.zraw is (damaged|truncated)"):
        convert_sliver07(layout.folder, Options())
    voxels.write_bytes(sound)
    assert_equals(convert_sliver07(layout.folder, Options()), layout)


@pytest.mark.parametrize(("size", "sound"), [(-1, True), (100, False)])
def test_bytes_before_the_voxels(raw, tmp_path, size, sound):
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    path = layout.folder / "scan" / "liver-orig002.mhd"
    path.write_text(path.read_text().replace("ElementDataFile", f"HeaderSize = {size}\nElementDataFile"))
    if sound:
        assert_equals(convert_sliver07(layout.folder, Options()), layout)
    else:
        with pytest.raises(UserError, match=r"liver-orig002.raw is truncated"):
            convert_sliver07(layout.folder, Options())


def test_masks_of_minus_one(raw, tmp_path):
    """255 in a file that says its voxels are signed bytes."""
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    for path in (layout.folder / "label").glob("*.mhd"):
        sitk.WriteImage(sitk.ReadImage(str(path)) * -1, str(path))
    assert_equals(convert_sliver07(layout.folder, Options()), layout)
