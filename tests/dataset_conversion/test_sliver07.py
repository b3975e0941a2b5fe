import zipfile

import pytest
from dataset_truth import assert_equals, folds, report, snapshot

from dataset_conversion.options import Options
from dataset_conversion.sliver07 import convert_sliver07
from nnunet_ext.errors import UserError
from nnunet_ext.phantom.sliver07 import VARIANTS, write_sliver07

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
        ("liver-orig002.raw", r"liver-orig002.mhd cannot be read|liver-orig002.raw"),
    ],
)
def test_missing_file(raw, tmp_path, lost, message):
    layout = write_sliver07(tmp_path / "d", **FEW)
    next(layout.folder.rglob(lost)).unlink()
    with pytest.raises(UserError, match=message):
        convert_sliver07(layout.folder, Options())


def test_truncated_raw(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", **FEW)
    path = next((layout.folder / "scan").rglob("liver-orig002.raw"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="liver-orig002"):
        convert_sliver07(layout.folder, Options())


def test_folds_and_missing_cases(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", shape=SHAPE)
    dataset = convert_sliver07(layout.folder, Options())
    validated = [name for fold in folds(dataset) for name in fold["val"]]
    assert sorted(validated) == sorted(layout.train)
    assert report(dataset)["notes"] == ["15 of 20 labelled cases were not found: 6-20"]
