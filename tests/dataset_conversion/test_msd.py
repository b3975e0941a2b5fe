import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.contrast import CT, MR_T1_IN_PHASE
from nnunet_ext.phantom.layout import Layout
from nnunet_ext.phantom.msd import write_msd
from tests.dataset_conversion.converting import convert_msd
from tests.dataset_conversion.dataset_truth import assert_equals, snapshot

SHAPE = (8, 20, 24)
DATASET = "Dataset090_PhantomAbdomen"


@pytest.fixture
def task(tmp_path: Path) -> Layout:
    return write_msd(tmp_path / "download", cases=3, test_cases=2, shape=SHAPE, apple_double=True)


def edit_description(task: Layout, **changes) -> None:
    path = task.folder / "dataset.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def image(task: Layout, number: int = 1, folder: str = "imagesTr") -> Path:
    return task.folder / folder / f"phantomabdomen_{number:03d}.nii.gz"


def rewrite(path: Path, change) -> None:
    """Apply a function to the voxels of an image and keep its header."""
    old = sitk.ReadImage(str(path))
    new = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(old)))
    if new.GetSize() == old.GetSize():
        new.CopyInformation(old)
    sitk.WriteImage(new, str(path), True)


def truncate(path: Path, keep: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


@pytest.mark.parametrize("mode", ["link", "copy"])
@pytest.mark.parametrize("check", ["full", "headers"])
def test_converted_equals_truth(raw, task, mode, check):
    before = snapshot(task.folder)
    dataset = convert_msd(task.folder, Options(mode=mode, check=check))
    assert dataset == raw / DATASET
    assert_equals(dataset, task)
    assert snapshot(task.folder) == before
    assert [path.name for path in raw.iterdir()] == [DATASET], "nothing temporary is left behind"


def test_headers_are_checked_without_decompressing(raw, task, monkeypatch):
    def refuse(path):
        raise AssertionError(f"{path} was decompressed")

    monkeypatch.setattr("dataset_conversion.formats.volumes._decompressed_length", refuse)
    monkeypatch.setattr("dataset_conversion.formats.volumes._nifti_voxels", refuse)
    assert_equals(convert_msd(task.folder, Options(check="headers")), task)


def test_file_of_several_gzip_members(raw, task):
    path = image(task)
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:5000]) + gzip.compress(content[5000:]))
    assert_equals(convert_msd(task.folder, Options(check="headers")), task)


def test_link_mode_copies_no_voxel(raw, task):
    dataset = convert_msd(task.folder, Options(mode="link"))
    assert not list((dataset / "imagesTr").iterdir())
    assert all(path.is_symlink() for path in (dataset / "imagesTs").iterdir())
    # nnUNetv2_find_best_configuration reads the references as a folder, whatever dataset.json says
    labels = sorted((dataset / "labelsTr").iterdir())
    assert [path.name for path in labels] == sorted(path.name for path in (task.folder / "labelsTr").iterdir())
    assert all(path.is_symlink() and path.is_file() for path in labels)


def test_path_in_which_nnunet_would_expand_a_variable(raw, task, tmp_path, monkeypatch):
    monkeypatch.setenv("HERE", "elsewhere")
    (tmp_path / "$HERE").mkdir()
    source = task.folder.rename(tmp_path / "$HERE" / task.folder.name)
    assert_equals(convert_msd(source, Options(mode="link")), task)


def test_copy_mode_is_independent_of_the_source(raw, task):
    dataset = convert_msd(task.folder, Options(mode="copy"))
    shutil.rmtree(task.folder)
    assert "dataset" not in json.loads((dataset / "dataset.json").read_text())
    assert_equals(dataset, task)


def test_4d_images_are_split_into_channels(raw, tmp_path):
    modalities = {"CT": CT, "MR": MR_T1_IN_PHASE}
    task = write_msd(tmp_path / "download", cases=2, test_cases=1, shape=SHAPE, modalities=modalities)
    dataset = convert_msd(task.folder, Options())
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "MR"}
    assert len(list((dataset / "imagesTr").iterdir())) == 4
    assert_equals(dataset, task)


def test_number_of_channels_must_be_that_of_the_description(raw, task):
    edit_description(task, modality={"0": "CT", "1": "PET"})
    with pytest.raises(UserError, match=r"phantomabdomen_001.nii.gz has 1 channels, and the dataset has 2 \(CT, PET\)"):
        convert_msd(task.folder, Options())


@pytest.mark.parametrize("levels", [1, 3])
def test_parent_folder_with_one_task(raw, task, tmp_path, levels):
    target = tmp_path.joinpath("a", *"bc"[: levels - 1], task.folder.name)
    shutil.copytree(task.folder, target)
    (tmp_path / "a" / "__MACOSX" / "Task90_PhantomAbdomen" / "imagesTr").mkdir(parents=True)
    assert_equals(convert_msd(tmp_path / "a", Options()), task)


def test_several_tasks_are_refused(raw, task):
    shutil.copytree(task.folder, task.folder.with_name("Task91_Other"))
    with pytest.raises(UserError, match="several tasks"):
        convert_msd(task.folder.parent, Options())


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archive(raw, task, tmp_path, kind):
    archive = tmp_path / f"Task90.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as handle:
            for path in task.folder.rglob("*"):
                handle.write(path, path.relative_to(task.folder.parent))
    else:
        with tarfile.open(archive, "w:gz" if kind.endswith("gz") else "w") as handle:
            handle.add(task.folder, task.folder.name)
    dataset = convert_msd(archive, Options())
    shutil.rmtree(task.folder)
    assert_equals(dataset, task)
    assert [path.name for path in raw.iterdir()] == [DATASET]


def test_archive_beside_what_was_unpacked_from_it_is_ignored(raw, task):
    with tarfile.open(task.folder.parent / "Task90.tar", "w") as handle:
        handle.add(task.folder, task.folder.name)
    dataset = convert_msd(task.folder.parent, Options())
    assert "dataset" in json.loads((dataset / "dataset.json").read_text()), "linked, not unpacked"


def test_damaged_archive(raw, tmp_path):
    archive = tmp_path / "Task90.tar"
    archive.write_bytes(b"no archive" * 200)
    with pytest.raises(UserError, match="cannot be unpacked"):
        convert_msd(archive, Options())
    assert not list(raw.iterdir())


def test_numbers_in_names_are_kept(raw, task):
    for folder in ("imagesTr", "labelsTr"):
        image(task, 1, folder).rename(image(task, 1, folder).with_name("liver_7.nii.gz"))
    edit_description(task, training=None)
    dataset = convert_msd(task.folder, Options())
    assert "liver_7" in json.loads((dataset / "dataset.json").read_text())["dataset"]


@pytest.mark.parametrize(
    "labels",
    [
        {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4, "e": 5},
        {"0": "background", **dict(zip("12345", "abcde", strict=True))},
    ],
)
def test_both_orders_of_labels_are_understood(raw, task, labels):
    edit_description(task, labels=labels)
    dataset = convert_msd(task.folder, Options())
    assert json.loads((dataset / "dataset.json").read_text())["labels"]["c"] == 3


def test_byte_order_mark_and_padded_keys(raw, task):
    path = task.folder / "dataset.json"
    path.write_text("\ufeff" + path.read_text().replace('"labels"', '"labels "'), encoding="utf-8")
    assert_equals(convert_msd(task.folder, Options()), task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "does not name its labels"),
        ({"labels": {"0": "background", "1": "liver", "3": "spleen"}}, "without gaps"),
        ({"labels": {"0": "background", "1": "liver", "2": "liver"}}, "calls two labels"),
        ({"labels": {"background": "x"}}, "does not name its labels"),
        ({"modality": None}, "does not name its channels"),
        ({"modality": {"1": "CT"}}, "does not name its channels"),
    ],
)
def test_unusable_description(raw, task, change, message):
    edit_description(task, **change)
    with pytest.raises(UserError, match=message):
        convert_msd(task.folder, Options())


def test_missing_description_of_an_official_task(raw, tmp_path):
    task = write_msd(
        tmp_path, task="Task03_Liver", organs=["liver", "liver_tumour"], lesions=True, cases=1, shape=SHAPE
    )
    (task.folder / "dataset.json").unlink()
    dataset = convert_msd(task.folder, Options())
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "liver": 1, "cancer": 2}
    assert content["channel_names"] == {"0": "CT"}
    assert_equals(dataset, task)


def test_missing_description_of_an_unknown_task(raw, task):
    (task.folder / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"dataset.json is missing"):
        convert_msd(task.folder, Options())


def test_test_image_named_like_a_training_image(raw, task):
    shutil.copy(image(task, 1), image(task, 1, "imagesTs"))
    with pytest.raises(UserError, match=r"phantomabdomen_001.nii.gz are both case phantomabdomen_001"):
        convert_msd(task.folder, Options())


@pytest.mark.parametrize("check", ["full", "headers"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: image(t, 2, "labelsTr").unlink(), r"imagesTr/phantomabdomen_002.nii.gz has no label"),
        (lambda t: image(t, 2).unlink(), r"labelsTr/phantomabdomen_002.nii.gz has no image"),
        (
            lambda t: rewrite(image(t, 2, "labelsTr"), lambda a: a[:-1]),
            r"labelsTr/phantomabdomen_002.nii.gz has 24x20x7 ",
        ),
        (lambda t: truncate(image(t, 3)), r"imagesTr/phantomabdomen_003.nii.gz is truncated"),
        (lambda t: truncate(image(t, 3, "labelsTr")), r"labelsTr/phantomabdomen_003.nii.gz is truncated"),
        (lambda t: truncate(image(t, 4, "imagesTs")), r"imagesTs/phantomabdomen_004.nii.gz is truncated"),
        (lambda t: image(t, 1).write_bytes(b""), r"phantomabdomen_001.nii.gz is empty"),
        (lambda t: image(t, 1).write_bytes(b"x" * 1000), r"phantomabdomen_001.nii.gz is not gzip-compressed"),
        (lambda t: image(t, 1).write_bytes(gzip.compress(b"x" * 1000)), "is not a readable NIfTI file"),
    ],
)
def test_bad_input_is_named_before_anything_is_written(raw, task, damage, message, check):
    damage(task)
    with pytest.raises(UserError, match=message):
        convert_msd(task.folder, Options(check=check))
    assert not list(raw.iterdir())


def set_voxel(value):
    def change(array):
        array = array.astype(np.float32)
        array[0, 0, 0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("number", "folder", "value", "message"),
    [
        (
            1,
            "labelsTr",
            9,
            r"labelsTr/phantomabdomen_001.nii.gz holds label value 9; this dataset knows 0 background, 1 l",
        ),
        (1, "labelsTr", 1.5, "values that are no integers"),
        (1, "labelsTr", -1, "is no label map"),
        (1, "labelsTr", np.nan, "is no label map"),
        (4, "imagesTs", np.nan, r"imagesTs/phantomabdomen_004.nii.gz holds voxels that are NaN"),
    ],
)
def test_bad_voxels(raw, task, number, folder, value, message):
    rewrite(image(task, number, folder), set_voxel(value))
    with pytest.raises(UserError, match=message):
        convert_msd(task.folder, Options())
    assert not (raw / DATASET).exists()


def test_flipped_bit_in_the_voxels_is_found_by_the_checksum(raw, task):
    path = image(task)
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # the checksum itself: what was decompressed no longer fits it
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"phantomabdomen_001.nii.gz is truncated or damaged"):
        convert_msd(task.folder, Options())


def test_label_with_another_geometry_gets_that_of_the_image(raw, task):
    path = image(task, 2, "labelsTr")
    label = sitk.ReadImage(str(path))
    label.SetSpacing([s * 1.5 for s in label.GetSpacing()])
    sitk.WriteImage(label, str(path), True)
    dataset = convert_msd(task.folder, Options())
    assert_equals(dataset, task)
    warnings = json.loads((dataset / "conversion_report.json").read_text())["warnings"]
    assert list(warnings) == ["phantomabdomen_002"]
    assert "label header differs from the image's in spacing" in warnings["phantomabdomen_002"][0]
    written = [path.name for path in (dataset / "labelsTr").iterdir() if not path.is_symlink()]
    assert written == ["phantomabdomen_002.nii.gz"]


def test_header_rounding_is_silent(raw, task):
    path = image(task, 2, "labelsTr")
    label = sitk.ReadImage(str(path))
    label.SetSpacing([s + 5e-4 for s in label.GetSpacing()])
    sitk.WriteImage(label, str(path), True)
    dataset = convert_msd(task.folder, Options())
    assert_equals(dataset, task)
    assert json.loads((dataset / "conversion_report.json").read_text())["warnings"] == {}


def test_almost_integer_labels_are_rounded(raw, task):
    rewrite(image(task, 1, "labelsTr"), lambda array: array.astype(np.float32) * np.float32(1.00001))
    dataset = convert_msd(task.folder, Options())
    assert_equals(dataset, task)
    warnings = json.loads((dataset / "conversion_report.json").read_text())["warnings"]
    assert warnings == {"phantomabdomen_001": ["label values were rounded to integers"]}


def test_axes_that_are_not_perpendicular_are_repaired(raw, task):
    path = image(task, 1)
    old = nib.load(path)
    affine = old.affine.copy()
    affine[0, 1] = 0.02 * affine[1, 1]
    skewed = nib.Nifti1Image(np.asanyarray(old.dataobj), None, old.header)
    skewed.set_sform(affine, code=1)
    skewed.set_qform(None, code=0)
    nib.save(skewed, path)
    dataset = convert_msd(task.folder, Options())
    written = sitk.ReadImage(str(dataset / "imagesTr" / "phantomabdomen_001_0000.nii.gz"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), task.train["phantomabdomen_001"].channels[0])


def test_uncompressed_task(raw, task):
    for path in list(task.folder.rglob("phantom*.nii.gz")):
        path.with_name(path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    dataset = convert_msd(task.folder, Options())
    assert json.loads((dataset / "dataset.json").read_text())["file_ending"] == ".nii"
    assert not list((dataset / "imagesTr").iterdir())
    assert_equals(dataset, task)


def test_one_uncompressed_file_among_compressed_ones_is_rewritten(raw, task):
    path = image(task, 1)
    path.with_name(path.name.removesuffix(".gz")).write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    dataset = convert_msd(task.folder, Options())
    assert [p.name for p in (dataset / "imagesTr").iterdir()] == ["phantomabdomen_001_0000.nii.gz"]
    assert_equals(dataset, task)


def test_dry_run_finds_errors_and_writes_nothing(raw, task):
    convert_msd(task.folder, Options(dry_run=True))
    assert not list(raw.iterdir())
    rewrite(image(task, 1, "labelsTr"), set_voxel(77))
    with pytest.raises(UserError, match="label value 77"):
        convert_msd(task.folder, Options(dry_run=True))


def test_existing_dataset_is_replaced_only_on_request(raw, task):
    dataset = convert_msd(task.folder, Options())
    marker = dataset / "marker"
    marker.touch()
    with pytest.raises(UserError, match="exists; choose another id with -d, or replace it with --overwrite"):
        convert_msd(task.folder, Options())
    assert marker.exists()
    convert_msd(task.folder, Options(overwrite=True))
    assert not marker.exists()
    assert_equals(dataset, task)
    assert [path.name for path in raw.iterdir()] == [DATASET]


def test_failure_to_overwrite_keeps_the_old_dataset(raw, task):
    dataset = convert_msd(task.folder, Options())
    rewrite(image(task, 1, "labelsTr"), set_voxel(77))
    before = snapshot(dataset)
    with pytest.raises(UserError):
        convert_msd(task.folder, Options(overwrite=True))
    assert snapshot(dataset) == before


def test_id_taken_by_another_name(raw, task):
    (raw.parent / "nnUNet_results" / "Dataset090_Other").mkdir()
    with pytest.raises(UserError, match="Dataset id 090 is taken by Dataset090_Other in nnUNet_results"):
        convert_msd(task.folder, Options())
    assert convert_msd(task.folder, Options(dataset_id=7)).name == "Dataset007_PhantomAbdomen"


def test_unset_raw_folder(task, monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(UserError, match="nnUNet_raw is not set"):
        convert_msd(task.folder, Options())


def test_interrupted_run_leaves_no_dataset_and_is_resumed(raw, task):
    rewrite(image(task, 3, "labelsTr"), set_voxel(77))
    with pytest.raises(UserError):
        convert_msd(task.folder, Options(mode="copy"))
    assert not (raw / DATASET).exists()
    (partial,) = raw.iterdir()
    done = partial / "imagesTr" / "phantomabdomen_001_0000.nii.gz"
    first_time = done.stat().st_mtime_ns
    rewrite(image(task, 3, "labelsTr"), lambda array: task.train["phantomabdomen_003"].label)
    dataset = convert_msd(task.folder, Options(mode="copy"))
    assert (dataset / "imagesTr" / done.name).stat().st_mtime_ns == first_time, "the finished case was not redone"
    assert_equals(dataset, task)


def test_resuming_redoes_a_case_whose_source_changed(raw, task):
    rewrite(image(task, 3, "labelsTr"), set_voxel(77))
    with pytest.raises(UserError):
        convert_msd(task.folder, Options(mode="copy"))
    rewrite(image(task, 1), lambda array: array + 1)
    os.utime(image(task, 1), (1, 1))
    rewrite(image(task, 3, "labelsTr"), lambda array: task.train["phantomabdomen_003"].label)
    dataset = convert_msd(task.folder, Options(mode="copy"))
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset / "imagesTr" / "phantomabdomen_001_0000.nii.gz")))
    np.testing.assert_array_equal(written, task.train["phantomabdomen_001"].channels[0] + 1)


def test_command_line(raw, task):
    command = [
        sys.executable,
        "-m",
        "dataset_conversion",
        "msd",
        str(task.folder),
        "-d",
        "12",
        "-np",
        "2",
        "--mode",
        "copy",
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert_equals(raw / "Dataset012_PhantomAbdomen", task)


def test_command_line_reports_one_sentence_and_exit_code_1(raw, task):
    truncate(image(task, 2))
    command = [sys.executable, "-m", "nnunet_ext", "convert", "msd", str(task.folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "phantomabdomen_002.nii.gz is truncated" in done.stderr


def test_command_line_without_room_for_the_dataset(raw, task, monkeypatch):
    (raw / f".{DATASET}.partial").write_text("in the way")
    command = [sys.executable, "-m", "nnunet_ext", "convert", "msd", str(task.folder)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "Not a directory" in done.stderr and done.stderr.count("\n") == 1


def test_killed_conversion_is_no_dataset_and_is_resumed(raw, task):
    code = (
        "import os, sys; from pathlib import Path; from dataset_conversion.registry import converter; "
        "from dataset_conversion.engine import work; from dataset_conversion.options import Options; "
        "keep = work.keep; "
        "stop = lambda path, *record: (keep(path, *record), path.stem.endswith('_002') and os._exit(9)); "
        "work.keep = stop; converter('msd')(Path(sys.argv[1]), Options(mode='copy'))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(task.folder)], capture_output=True, check=False)
    assert done.returncode == 9
    assert [path.name for path in raw.iterdir()] == [f".{DATASET}.partial"]
    first = raw / f".{DATASET}.partial" / "imagesTr" / "phantomabdomen_001_0000.nii.gz"
    written = first.stat().st_mtime_ns
    dataset = convert_msd(task.folder, Options(mode="copy"))
    assert (dataset / "imagesTr" / first.name).stat().st_mtime_ns == written
    assert_equals(dataset, task)


def test_error_in_a_worker_process(raw, task):
    rewrite(image(task, 1, "labelsTr"), set_voxel(77))
    with pytest.raises(UserError, match="label value 77"):
        convert_msd(task.folder, Options(processes=2))


def test_help_needs_no_heavy_import():
    code = (
        "import sys; from nnunet_ext.cli.app import app; "
        "assert not {'numpy', 'SimpleITK', 'torch', 'nibabel', 'nnunetv2'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_conversion_needs_no_torch(raw, task):
    code = (
        "import sys; from dataset_conversion.cli import app; from dataset_conversion.registry import converter; "
        "assert 'torch' not in sys.modules and 'nnunetv2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "labels",
    [
        {"0": "Background", "1": "a", "2": "b", "3": "c"},
        {"0": " background ", "1": "a", "2": "b", "3": "c"},
        {"0": "Unlabelled", "1": "a", "2": "b", "3": "c"},
        {"1": "a", "2": "b", "3": "c"},
        {"c": 3, "b": 2, "a": 1, "BACKGROUND": 0},
    ],
)
def test_label_0_is_called_background(raw, task, labels):
    edit_description(task, labels=labels)
    dataset = convert_msd(task.folder, Options())
    content = json.loads((dataset / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "a": 1, "b": 2, "c": 3}
    assert next(iter(content["labels"])) == "background"
    assert_equals(dataset, task)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, "does not name its labels"),
        ([], "does not name its labels"),
        ({"0": "background", "1": ""}, "does not name its labels"),
        ({"0": "background", "1": None}, "does not name its labels"),
        ({"background": 0, "liver": 1.5}, "does not name its labels"),
        ({"background": 0, "liver": True}, "does not name its labels"),
        ({"background": 0, "liver": [1, 2]}, "does not name its labels"),
        ({"0": "background"}, ".* there is nothing to segment"),
        ({"0": "background", "1": "ignore"}, ".* there is nothing to segment"),
        ({"0": "background", "1": "ignore", "2": "liver"}, 'gives "ignore" the value 1; nnU-Net needs the highest one'),
        ({"0": "liver", "1": "spleen", "2": "stomach"}, 'calls label 0 "liver", which nnU-Net takes for background'),
        ({"0": "none", "1": "Background", "2": "x"}, 'calls label 1 "Background", which is the name of label 0'),
    ],
)
def test_tables_of_labels_that_nnunet_could_not_plan_with(raw, task, labels, message):
    edit_description(task, labels=labels)
    with pytest.raises(UserError, match=rf"dataset\.json {message}"):
        convert_msd(task.folder, Options())


def test_a_key_that_is_there_twice(raw, task):
    path = task.folder / "dataset.json"
    path.write_text(path.read_text().replace('"1": "liver"', '"1": "liver", "1": "kidney"'))
    with pytest.raises(UserError, match=r'dataset.json has "1" twice'):
        convert_msd(task.folder, Options())


def test_more_labels_than_a_byte_holds(raw, task):
    edit_description(task, labels={"background": 0, **{f"organ {i}": i for i in range(1, 301)}})
    path = image(task, 1, "labelsTr")
    rewrite(path, lambda array: np.where(array == 1, 300, array.astype(np.float32)))
    written = sitk.ReadImage(str(convert_msd(task.folder, Options(mode="copy")) / "labelsTr" / path.name))
    assert sitk.GetArrayFromImage(written).max() == 300
    nib.save(nib.Nifti2Image(np.array(nib.load(path).dataobj), nib.load(path).affine), path)  # has to be written anew
    written = sitk.ReadImage(str(convert_msd(task.folder, Options(overwrite=True)) / "labelsTr" / path.name))
    assert sitk.GetArrayFromImage(written).max() == 300


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.parametrize("ending", [None, ".nrrd", ".mha", ".part"])
def test_listed_cases_that_are_not_there(raw, task, number, ending):
    """Missing, in another format, or a download that was not finished; of training (2) and test (4)."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        path = image(task, number, folder)
        if path.exists():
            if ending in (".nrrd", ".mha"):
                sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ending))
            elif ending:
                path.with_name(path.name + ending).write_bytes(path.read_bytes())
            path.unlink()
    name = f"phantomabdomen_{number:03d}"
    with pytest.raises(
        UserError, match=rf"dataset.json lists \d cases in images.*, of which 1 are not .*: {name}"
    ) as error:
        convert_msd(task.folder, Options())
    if ending in (".nrrd", ".mha"):
        assert f"{name}{ending} is no NIfTI file" in str(error.value)
        return
    dataset = convert_msd(task.folder, Options(force=True))
    report = json.loads((dataset / "conversion_report.json").read_text())
    assert report["skipped"] == {name: "listed in dataset.json, but not there"}
    assert any(name in note for note in report["notes"])


@pytest.mark.parametrize(
    ("training", "message"),
    [("x", "names|name"), ([{"label": "x"}], "do not name their image"), ([None], "do not name their image")],
)
def test_lists_that_are_none(raw, task, training, message):
    edit_description(task, training=training)
    with pytest.raises(UserError, match=rf'dataset.json has a list "training" .*{message}'):
        convert_msd(task.folder, Options())


def test_promised_number_without_a_list(raw, task):
    edit_description(task, training=None, numTraining=5)
    with pytest.raises(UserError, match="promises 5 training cases and 3 are there"):
        convert_msd(task.folder, Options())


def test_apple_doubles_count_for_nothing(raw, task):
    content = json.loads((task.folder / "dataset.json").read_text())
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        for path in list((task.folder / folder).glob("p*")):
            path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    junk = {"image": "./imagesTr/._phantomabdomen_001.nii.gz", "label": "./labelsTr/._phantomabdomen_001.nii.gz"}
    edit_description(task, training=[*content["training"], junk], test=[*content["test"], junk["image"]])
    assert_equals(convert_msd(task.folder, Options()), task)


def test_links_that_lead_nowhere(raw, task):
    for folder in ("imagesTr", "labelsTr"):
        image(task, 2, folder).unlink()
        image(task, 2, folder).symlink_to(task.folder / "gone.nii.gz")
    with pytest.raises(UserError, match=r"2 things are wrong") as error:
        convert_msd(task.folder, Options())
    assert str(error.value).count("cannot be read: No such file or directory") == 2


def test_label_without_organs(raw, task):
    rewrite(image(task, 2, "labelsTr"), np.zeros_like)
    with pytest.raises(UserError, match=r"labelsTr/phantomabdomen_002.nii.gz holds no voxel of an organ; .*--force"):
        convert_msd(task.folder, Options())
    dataset = convert_msd(task.folder, Options(force=True))
    warnings = json.loads((dataset / "conversion_report.json").read_text())["warnings"]
    assert warnings == {"phantomabdomen_002": ["holds no voxel of an organ"]}


def test_full_disk(raw, task):
    """A limit on the size of files stands for it."""
    code = (
        "import resource, sys; from nnunet_ext.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY)); main()"
    )
    command = [sys.executable, "-c", code, "convert", "msd", str(task.folder), "--mode", "copy", "-np", "1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert "error: " in done.stderr and "File too large" in done.stderr and "Traceback" not in done.stderr
    assert not list(raw.glob("Dataset*"))


@pytest.mark.parametrize("way", ['"{}"', "'{}'", "{} ", '"{}', "~/{}"])
def test_raw_folder_with_what_a_shell_would_have_removed(raw, task, monkeypatch, tmp_path, way):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("nnUNet_raw", way.format(raw))
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError, match=r"nnUNet_raw is set to .*, which no shell has taken away: set it to /"):
        convert_msd(task.folder, Options())
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_part_of_the_cases_keeps_its_labels(raw, tmp_path):
    task = write_msd(tmp_path / "download", cases=9, test_cases=1, shape=SHAPE)
    found = []
    for draw in (0, 1):
        dataset = convert_msd(task.folder, Options(overwrite=True), validation=3, labelled=0.5, draw=draw)
        (fold,) = json.loads((dataset / "splits_final.json").read_text())
        unlabelled = {p.name.removesuffix("_0000.nii.gz") for p in (dataset / "imagesUn").iterdir()}
        labelled = set(json.loads((dataset / "dataset.json").read_text())["dataset"])
        assert len(fold["train"]) == len(fold["val"]) == len(unlabelled) == 3
        assert labelled == {*fold["train"], *fold["val"]} and not labelled & unlabelled
        found.append(fold)
    assert found[0]["val"] == found[1]["val"] and found[0]["train"] != found[1]["train"]
    dataset = convert_msd(task.folder, Options(overwrite=True), labelled=0.5)
    assert not (dataset / "splits_final.json").exists()  # nnU-Net's folds of those with labels
    assert json.loads((dataset / "dataset.json").read_text())["numTraining"] == 4
