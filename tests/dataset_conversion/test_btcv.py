import shutil
from pathlib import Path

import pytest

from dataset_conversion.btcv import block_split
from dataset_conversion.catalogue import BTCV, BTCV_CASES
from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.anatomy import BTCV_LABELS
from nnunet_ext.phantom.btcv import VARIANTS, write_btcv
from tests.dataset_conversion.converting import convert_btcv
from tests.dataset_conversion.dataset_truth import assert_equals, folds, report, snapshot

SHAPE = (8, 20, 24)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["link", "copy"])
def test_every_variant_equals_truth(raw, tmp_path, variant, mode):
    layout = write_btcv(tmp_path / "d", variant=variant, shape=SHAPE)
    before = snapshot(layout.folder)
    assert_equals(convert_btcv(layout.folder, Options(mode=mode)), layout)
    assert snapshot(layout.folder) == before


def test_labels_are_numbered_as_in_the_challenge():
    assert list(BTCV.dataset.labels.values()) == list(BTCV_LABELS.values())
    assert [name.replace(" ", "_") for name in BTCV.dataset.labels][:10] == list(BTCV_LABELS)[:10]


def copy_as(folder: Path, source: str, target: str) -> None:
    path = folder / target
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(next(folder.rglob(source)), path)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("RawData/Training/img/0507688-Image.nii.gz", "cervix"),
        ("RegData/Training-Training/img/0001/img0001-0002.nii.gz", "registered pairs"),
        ("test_vol_h5/case0001.npy.h5", "TransUNet"),
        ("train_npz/case0005_slice000.npz", "TransUNet"),
        ("RawData/Training/img/img0050.nii.gz", "is not of BTCV's abdomen"),
        ("copy/img0001.nii.gz", "are both number 1"),
    ],
)
def test_foreign_files_are_refused(raw, tmp_path, target, message):
    layout = write_btcv(tmp_path / "d", shape=SHAPE)
    copy_as(layout.folder, "img0001.nii.gz", target)
    with pytest.raises(UserError, match=message):
        convert_btcv(layout.folder, Options())


def test_labels_of_test_cases_by_other_people_are_left_out(raw, tmp_path):
    layout = write_btcv(tmp_path / "d", shape=SHAPE)
    copy_as(layout.folder, "label0001.nii.gz", "RawData/Testing/label/label0061.nii.gz")
    dataset = convert_btcv(layout.folder, Options())
    assert_equals(dataset, layout)
    assert "label0061.nii.gz was left out: test cases were annotated later, by other people" in report(dataset)["notes"]


@pytest.mark.parametrize(
    ("lost", "message"),
    [("img0002.nii.gz", r"label0002.nii.gz has no image"), ("label0002.nii.gz", r"img0002.nii.gz has no label")],
)
def test_unpaired(raw, tmp_path, lost, message):
    layout = write_btcv(tmp_path / "d", shape=SHAPE)
    next(layout.folder.rglob(lost)).unlink()
    with pytest.raises(UserError, match=message):
        convert_btcv(layout.folder, Options())


def test_folds(raw, tmp_path):
    split = block_split([f"btcv_{n:04d}" for n in BTCV_CASES])
    assert [len(fold["val"]) for fold in split.folds] == [6] * 5
    assert split.folds[1]["val"] == [f"btcv_{n:04d}" for n in (7, 8, 9, 10, 21, 22)]
    assert split.folds[-1]["val"] == [f"btcv_{n:04d}" for n in range(35, 41)], "MONAI's dataset_0.json"
    dataset = convert_btcv(write_btcv(tmp_path / "d", shape=SHAPE).folder, Options())
    assert [fold["val"] for fold in folds(dataset)] == [["btcv_0001", "btcv_0002"], ["btcv_0021"], ["btcv_0035"]]


def test_nothing_found(raw, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="point at the folder RawData"):
        convert_btcv(tmp_path / "d", Options())
