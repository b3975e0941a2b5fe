import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.catalogue import NIH_CASES
from dataset_conversion.nih_pancreas import zhou_split
from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom import dicom
from nnunet_ext.phantom.layout import write_apple_double
from nnunet_ext.phantom.nih_pancreas import VARIANTS, write_nih_pancreas
from tests.dataset_conversion.converting import convert_nih_pancreas
from tests.dataset_conversion.dataset_truth import assert_equals, folds, report, snapshot

SHAPE = (8, 20, 24)
LARGE = (16, 40, 40)  # enough pancreas to judge its intensities


def series(folder: Path, number: int = 1) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and f"PANCREAS_{number:04d}" in str(p))


@pytest.mark.parametrize("variant", [*VARIANTS, "nifti", "dcm2niix"])
def test_every_variant_equals_truth(raw, tmp_path, variant):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), variant=variant, shape=SHAPE)
    before = snapshot(layout.folder)
    dataset = convert_nih_pancreas(layout.folder, Options())
    assert dataset.name == "Dataset501_NIHPancreas"
    assert_equals(dataset, layout)
    assert snapshot(layout.folder) == before


def test_slices_numbered_from_the_head(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), descending=True, shape=SHAPE)
    assert_equals(convert_nih_pancreas(layout.folder, Options()), layout)


def test_junk_beside_the_slices(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    first = series(layout.folder)[0]
    write_apple_double(first)
    (first.parent / "LICENSE").write_text("x")
    (first.parents[1] / "metadata.csv").write_text("x")
    assert_equals(convert_nih_pancreas(layout.folder, Options()), layout)


def test_withdrawn_and_missing_cases_are_reported(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), extra_labels=(25, 70, 5), shape=SHAPE)
    content = report(convert_nih_pancreas(layout.folder, Options()))
    assert "same scan as case 2" in content["skipped"]["pancreas_0025"]
    assert content["skipped"]["pancreas_0005"] == "label0005.nii.gz has no image"
    missing, folds = content["notes"]
    assert missing == "78 of 80 cases were not found: 3-24, 26-69, 71-82"
    assert "no folds were written" in folds


def test_withdrawn_case_with_image_is_left_out(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(2, 25), extra_labels=(), shape=SHAPE)
    content = report(convert_nih_pancreas(layout.folder, Options()))
    assert content["converted"] == {"imagesTr": ["pancreas_0002"]}


def test_label_header_is_reported_not_used(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    dataset = convert_nih_pancreas(layout.folder, Options())
    assert "label header, which is not used, differs" in report(dataset)["warnings"]["pancreas_0001"][0]


def test_labels_elsewhere_and_zipped(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    labels = layout.folder / "TCIA_pancreas_labels-02-05-2017"
    archive = tmp_path / "TCIA_pancreas_labels-02-05-2017.zip"
    with zipfile.ZipFile(archive, "w") as handle:
        for path in labels.iterdir():
            handle.write(path, path.name)
    shutil.rmtree(labels)
    with pytest.raises(UserError, match=r"holds no label0001.nii.gz; the labels are a download of their own"):
        convert_nih_pancreas(layout.folder, Options())
    assert_equals(convert_nih_pancreas(layout.folder, Options(), labels=archive), layout)
    assert [path.name for path in raw.iterdir()] == ["Dataset501_NIHPancreas"]


def test_image_without_label(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    next(layout.folder.rglob("label0002.nii.gz")).unlink()
    with pytest.raises(UserError, match=r"PANCREAS_0002.* has no label: label0002.nii.gz is missing"):
        convert_nih_pancreas(layout.folder, Options())


@pytest.mark.parametrize("axes", ["y", "z", "zy"])
def test_flipped_label_is_refused_and_the_flip_named(raw, tmp_path, axes):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1,), flip_labels=axes, shape=LARGE, seed=3)
    with pytest.raises(UserError, match=rf"label0001.nii.gz does not lie on its image .* if flipped along {axes};"):
        convert_nih_pancreas(layout.folder, Options())
    dataset = convert_nih_pancreas(layout.folder, Options(force=True))
    assert "label may not lie on its image" in report(dataset)["warnings"]["pancreas_0001"][-1]


@pytest.mark.parametrize("seed", range(8))
def test_sound_labels_are_never_doubted(raw, tmp_path, seed):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), extra_labels=(), shape=LARGE, seed=seed)
    dataset = convert_nih_pancreas(layout.folder, Options())
    assert not any("may not lie" in text for texts in report(dataset)["warnings"].values() for text in texts)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda files: files[3].unlink(), r"holds 7 DICOM slices and .*label0001.nii.gz has 8"),
        (lambda files: shutil.copy(files[3], files[3].with_name("1-099.dcm")), "holds 9 DICOM slices and"),
        (lambda files: dicom.change(files[3], SeriesInstanceUID="1.2.3"), "1-004.dcm differs in series"),
        (lambda files: dicom.change(files[3], PixelSpacing=[9, 9]), "1-004.dcm differs in pixel spacing"),
        (lambda files: dicom.change(files[3], RescaleIntercept=-5), "1-004.dcm differs in rescale slope or intercept"),
        (lambda files: dicom.change(files[3], ImagePositionPatient=None), "1-004.dcm is not a usable DICOM slice"),
        (lambda files: dicom.change(files[3], InstanceNumber=77), "InstanceNumbers that do not follow the slice pos"),
        (lambda files: files[3].write_bytes(files[3].read_bytes()[:-500]), "1-004.dcm has damaged pixels"),
        (lambda files: files[3].write_bytes(b"x" * 2000), "1-004.dcm is not a usable DICOM slice"),
    ],
)
def test_damaged_series(raw, tmp_path, damage, message):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    damage(series(layout.folder))
    with pytest.raises(UserError, match=message):
        convert_nih_pancreas(layout.folder, Options())
    assert not list(raw.glob("Dataset*"))


def test_two_series_of_one_patient(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    folder = series(layout.folder)[0].parent
    shutil.copytree(folder, folder.with_name("Pancreas-2"))
    with pytest.raises(UserError, match="are both images of patient 0001; remove one"):
        convert_nih_pancreas(layout.folder, Options())


def test_two_labels_of_one_patient(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    label = next(layout.folder.rglob("label0001.nii.gz"))
    (tmp_path / "d" / "copy").mkdir()
    shutil.copy(label, tmp_path / "d" / "copy")
    with pytest.raises(UserError, match="are both labels of patient 0001; remove one"):
        convert_nih_pancreas(layout.folder, Options())


def test_label_of_another_shape(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), variant="nifti", shape=SHAPE)
    folder = layout.folder / "TCIA_pancreas_labels-02-05-2017"
    shutil.copy(folder / "label0002.nii.gz", folder / "label0001.nii.gz")
    with pytest.raises(UserError, match=r"label0001.nii.gz has shape \(9, 20, 24\)"):
        convert_nih_pancreas(layout.folder, Options())


def test_wrong_folder(raw, tmp_path):
    (tmp_path / "d").mkdir()
    with pytest.raises(UserError, match="holds no DICOM files below a folder PANCREAS_0001"):
        convert_nih_pancreas(tmp_path / "d", Options())
    with pytest.raises(UserError, match="does not exist"):
        convert_nih_pancreas(tmp_path / "e", Options())


def test_published_folds(raw, tmp_path):
    split = zhou_split([f"pancreas_{n:04d}" for n in NIH_CASES])
    sizes = [len(fold["val"]) for fold in split.folds]
    assert sizes == [20, 19, 21, 20]
    assert split.folds[2]["val"][0] == "pancreas_0041" and split.folds[2]["val"][-1] == "pancreas_0061"
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 30, 41, 62, 82), extra_labels=(), shape=SHAPE)
    dataset = convert_nih_pancreas(layout.folder, Options())
    assert [fold["val"] for fold in folds(dataset)] == [
        ["pancreas_0001"],
        ["pancreas_0030"],
        ["pancreas_0041"],
        ["pancreas_0062", "pancreas_0082"],
    ]


def test_images_are_compressed_int16(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1,), extra_labels=(), shape=SHAPE)
    dataset = convert_nih_pancreas(layout.folder, Options())
    import nibabel as nib

    image = nib.load(dataset / "imagesTr" / "pancreas_0001_0000.nii.gz")
    assert image.get_data_dtype() == np.int16
    assert nib.load(dataset / "labelsTr" / "pancreas_0001.nii.gz").get_data_dtype() == np.uint8


def test_one_file_of_many_frames_is_not_miscounted(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    first, *others = series(layout.folder)
    dicom.change(first, NumberOfFrames=8)
    for path in others:
        path.unlink()
    with pytest.raises(UserError, match="it holds 8 frames"):
        convert_nih_pancreas(layout.folder, Options())


def test_series_without_rescaling(raw, tmp_path):
    layout = write_nih_pancreas(tmp_path / "d", numbers=(1, 2), shape=SHAPE)
    for path in series(layout.folder, 2):
        dicom.change(path, RescaleSlope=None, RescaleIntercept=None)
    with pytest.raises(UserError, match=r"PANCREAS_0002.* has CT slices without RescaleSlope .* --force"):
        convert_nih_pancreas(layout.folder, Options())
    warnings = report(convert_nih_pancreas(layout.folder, Options(force=True)))["warnings"]["pancreas_0002"]
    assert all(any(said in text for text in warnings) for said in ("slices without RescaleSlope", "lowest value"))
