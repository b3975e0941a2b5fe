import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.lits import VARIANTS, write_lits
from tests.dataset_conversion.converting import convert_lits
from tests.dataset_conversion.dataset_truth import assert_equals, folds, report, snapshot

SHAPE = (8, 20, 24)


@pytest.mark.parametrize("mode", ["link", "copy"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_equals_truth(raw, tmp_path, variant, mode):
    layout = write_lits(tmp_path / "d", numbers=(0, 2, 10), variant=variant, shape=SHAPE)
    before = snapshot(layout.folder)
    dataset = convert_lits(layout.folder, Options(mode=mode))
    assert_equals(dataset, layout)
    assert json.loads((dataset / "dataset.json").read_text())["file_ending"] == (
        ".nii.gz" if variant == "decathlon" else ".nii"
    )
    assert snapshot(layout.folder) == before


def test_compressed_for_a_union(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 2, 10), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options(), compressed=True)
    assert_equals(dataset, layout)
    assert json.loads((dataset / "dataset.json").read_text())["file_ending"] == ".nii.gz"


def test_link_mode_writes_no_volume(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 2, 10), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options())
    assert not list((dataset / "imagesTr").iterdir())
    assert all(path.is_symlink() for path in (dataset / "labelsTr").iterdir())


def test_lost_spacing_is_noted_and_can_be_given(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 28, 29), lost_spacing=(28,), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options())
    assert_equals(dataset, layout)
    (note,) = [n for n in report(dataset)["notes"] if "spacing-csv" in n]
    assert note.startswith("the voxel size of 1 case(s) is exactly 1 x 1 x 1 mm") and note.endswith("lits_028")
    table = tmp_path / "spacings.csv"
    table.write_text("case,x,y,z\n28,7,8,15\n")
    dataset = convert_lits(layout.folder, Options(overwrite=True), spacing_csv=table)
    from nnunetv2.imageio.nibabel_reader_writer import NibabelIO

    voxels, properties = NibabelIO().read_images([str(dataset / "imagesTr" / "lits_028_0000.nii")])
    np.testing.assert_allclose(properties["spacing"], (15, 8, 7), rtol=1e-6)
    np.testing.assert_array_equal(voxels[0], layout.train["lits_028"].channels[0])
    _, properties = NibabelIO().read_seg(str(dataset / "labelsTr" / "lits_028.nii"))
    np.testing.assert_allclose(properties["spacing"], (15, 8, 7), rtol=1e-6)
    assert not [n for n in report(dataset)["notes"] if "spacing-csv" in n]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("28,1,2\n", "line 1: expected case,x,y,z"),
        ("case,x,y,z\n28,1,2,wide\n", "line 2: expected case,x,y,z"),
        ("28,1,2,-3\n", "line 1: voxel sizes must be positive"),
        ("28,1,2,nan\n", "line 1: voxel sizes must be positive"),
        ("99,1,2,3\n", "names case 99, which was not found"),
    ],
)
def test_bad_table_of_spacings(raw, tmp_path, text, message):
    layout = write_lits(tmp_path / "d", numbers=(0, 28), shape=SHAPE)
    table = tmp_path / "spacings.csv"
    table.write_text(text)
    with pytest.raises(UserError, match=message):
        convert_lits(layout.folder, Options(), spacing_csv=table)


def test_useless_label_header(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 1, 2), useless_label_header=(1,), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options())
    assert_equals(dataset, layout)
    assert "label header differs from the image's in spacing" in report(dataset)["warnings"]["lits_001"][0]
    written = [path.name for path in (dataset / "labelsTr").iterdir() if not path.is_symlink()]
    assert written == ["lits_001.nii"]


def test_mixed_orientations_are_reported(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 1, 2), other_orientation=(1,), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options())
    assert_equals(dataset, layout)
    assert report(dataset)["orientations"] == {"LPS": 4, "RPS": 1}
    assert any(
        "different orientations, which nnU-Net ignores: LPS 4, RPS 1" in note for note in report(dataset)["notes"]
    )


@pytest.mark.parametrize("axes", ["z", "y", "x"])
def test_flipped_labels(raw, tmp_path, axes):
    layout = write_lits(tmp_path / "d", numbers=(0, 1), flip_labels=axes, shape=(16, 40, 40))
    with pytest.raises(UserError, match=rf"segmentation-0.nii does not lie on its image .* if flipped along {axes};"):
        convert_lits(layout.folder, Options())


@pytest.mark.parametrize("seed", range(3))
def test_sound_labels_are_never_doubted(raw, tmp_path, seed):
    layout = write_lits(tmp_path / "d", numbers=(0, 1, 2), shape=(16, 40, 40), seed=seed)
    assert report(convert_lits(layout.folder, Options()))["warnings"] == {}


@pytest.mark.parametrize(
    ("lost", "message"),
    [("volume-1.nii", r"segmentation-1.nii has no image"), ("segmentation-1.nii", r"volume-1.nii has no label")],
)
def test_unpaired(raw, tmp_path, lost, message):
    layout = write_lits(tmp_path / "d", numbers=(0, 1, 2), shape=SHAPE)
    next(layout.folder.rglob(lost)).unlink()
    with pytest.raises(UserError, match=message):
        convert_lits(layout.folder, Options())


def test_case_found_twice(raw, tmp_path):
    write_lits(tmp_path / "d", numbers=(0, 1), shape=SHAPE)
    write_lits(tmp_path / "d" / "copy", numbers=(0, 1), shape=SHAPE)
    with pytest.raises(UserError, match=r"are both (volume|label) 0; point at one copy"):
        convert_lits(tmp_path / "d", Options())


def test_truncated_volume(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=(0, 1), shape=SHAPE)
    path = next(layout.folder.rglob("volume-1.nii"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"volume-1.nii is truncated: its header promises \d+ bytes"):
        convert_lits(layout.folder, Options())


def test_hundred_and_thirty_one_cases_give_100_and_31(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=range(131), test_numbers=(), shape=(3, 8, 8))
    coarse = Options(check="headers", force=True)  # voxels of 40 mm
    dataset = convert_lits(layout.folder, coarse)
    (fold,) = folds(dataset)
    assert (len(fold["train"]), len(fold["val"])) == (100, 31)
    dataset = convert_lits(layout.folder, replace(coarse, overwrite=True), labelled=0.2)
    (again,) = folds(dataset)
    assert again["val"] == fold["val"], "the test part does not depend on how many are labelled"
    assert len(again["train"]) == 20 and set(again["train"]) < set(fold["train"])
    unlabelled = {p.name.removesuffix("_0000.nii") for p in (dataset / "imagesUn").iterdir()}
    assert unlabelled == set(fold["train"]) - set(again["train"])


def test_test_cases_of_ones_own(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=range(6), shape=SHAPE)
    listed = tmp_path / "test.txt"
    listed.write_text("4, 2\n")
    dataset = convert_lits(layout.folder, Options(), test_cases=listed)
    assert folds(dataset)[0]["val"] == ["lits_002", "lits_004"]
    listed.write_text("77")
    with pytest.raises(UserError, match="names lits_077, which was not found"):
        convert_lits(layout.folder, Options(overwrite=True), test_cases=listed)
    listed.write_text("two")
    with pytest.raises(UserError, match="does not hold a list of case numbers"):
        convert_lits(layout.folder, Options(overwrite=True), test_cases=listed)


def test_other_folds_in_the_preprocessed_folder(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=range(6), shape=SHAPE)
    dataset = convert_lits(layout.folder, Options())
    preprocessed = tmp_path / "nnUNet_preprocessed" / dataset.name
    preprocessed.mkdir()
    (preprocessed / "splits_final.json").write_bytes((dataset / "splits_final.json").read_bytes())
    convert_lits(layout.folder, Options(overwrite=True))
    with pytest.raises(UserError, match="holds other folds, from an earlier conversion"):
        convert_lits(layout.folder, Options(overwrite=True), labelled=0.5)


def test_unlabelled_files_of_an_interrupted_run_with_another_fraction_are_gone(raw, tmp_path):
    layout = write_lits(tmp_path / "d", numbers=range(6), shape=SHAPE)
    held_out = folds(convert_lits(layout.folder, Options()))[0]["val"][-1]
    shutil.rmtree(raw / "Dataset503_LiTS")
    last = layout.folder / "Training Batch 1" / f"segmentation-{int(held_out[-3:])}.nii"
    content = last.read_bytes()
    last.write_bytes(content[:352] + b"\x09" * (len(content) - 352))
    with pytest.raises(UserError, match="label value 9"):
        convert_lits(layout.folder, Options(mode="copy"), labelled=0.5)
    last.write_bytes(content)
    dataset = convert_lits(layout.folder, Options(mode="copy"))
    assert_equals(dataset, layout)
    assert {p.name for p in (dataset / "imagesTr").iterdir()} == {f"lits_{n:03d}_0000.nii" for n in range(6)}
    assert not (dataset / "imagesUn").exists()


def test_path_without_cases(raw, tmp_path):
    Path(tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="holds no labelled case"):
        convert_lits(tmp_path / "d", Options())
