import errno
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion import checks
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import LABEL_ROUNDING
from nnunet_ext.evaluation import report, tables, worker
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.folders import evaluate_folders, find_dataset_json
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.statistics import as_frame, compare
from tests.evaluation.folders import SPACING, dataset, label_map, write


def test_table_of_a_folder(tmp_path):
    reference, prediction = dataset(tmp_path)
    result = evaluate_folders(reference, prediction)
    assert list(result.table["case"]) == [f"case_{i}" for i in range(3) for _ in range(2)]
    assert list(result.table["label"]) == ["liver", "spleen"] * 3
    # Boxes 10 long, moved by 1: 2*9/20. Only the two end faces differ, each 0.8 mm off.
    assert result.table["Dice"].to_numpy() == pytest.approx(0.9)
    assert result.table["HD"].to_numpy() == pytest.approx(SPACING[1])


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".png", ".tif"])
def test_formats(tmp_path, ending):
    from skimage import io as skio

    if ending in {".nrrd", ".mha"}:
        reference, prediction = dataset(tmp_path, ending=ending)
    else:
        reference, prediction = tmp_path / "r", tmp_path / "p"
        flat = (lambda a: a[4]) if ending == ".png" else (lambda a: a)
        for folder, shift in ((reference, 0), (prediction, 1)):
            folder.mkdir()
            for i in range(2):
                skio.imsave(folder / f"c{i}{ending}", flat(label_map(i, shift)), check_contrast=False)
                if ending == ".tif":
                    (folder / f"c{i}.json").write_text(json.dumps({"spacing": SPACING}))
        content = {"labels": {"background": 0, "liver": 1, "spleen": 2}, "file_ending": ending}
        (tmp_path / "dataset.json").write_text(json.dumps(content))
    result = evaluate_folders(reference, prediction)
    assert result.table["Dice"].to_numpy() == pytest.approx(0.9)
    assert result.table["HD"].to_numpy() == pytest.approx(1.0 if ending == ".png" else SPACING[1])
    assert result.table["volume_ref_ml"].isna().all() == (ending == ".png")


def test_processes_give_the_same_and_report_progress(tmp_path):
    reference, prediction = dataset(tmp_path)
    seen = []
    single = evaluate_folders(reference, prediction)
    several = evaluate_folders(
        reference, prediction, num_processes=2, progress=lambda done, total, case: seen.append((done, total))
    )
    assert single.table.equals(several.table)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def spoil(prediction, how):
    file = prediction / "case_1.nii.gz"
    if how == "missing":
        file.unlink()
    elif how == "broken":
        file.write_bytes(file.read_bytes()[:100])
    elif how == "geometry":
        write(file, label_map(1)[1:])
    elif how == "label":
        write(file, label_map(1) * 7)
    return file


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "1 of 3 predictions missing: case_1"),
        ("broken", "case_1.nii.gz cannot be read"),
        ("geometry", "case_1.nii.gz does not lie on the grid of its reference: shape 9 x 24 x 26"),
        ("label", "case_1.nii.gz holds label 7, 14"),
    ],
)
def test_a_prediction_that_cannot_be_used(tmp_path, how, message):
    reference, prediction = dataset(tmp_path)
    spoil(prediction, how)
    with pytest.raises(UserError) as error:
        evaluate_folders(reference, prediction)
    assert message in str(error.value) and "\n" not in str(error.value)
    result = evaluate_folders(reference, prediction, allow_missing=True)
    rows = result.table[result.table["case"] == "case_1"]
    assert set(rows["presence"]) == {"missed"} and (rows["Dice"] == 0).all()
    assert rows["note"].str.startswith("scored as missed: ").all()
    shape = label_map(0).shape
    assert rows["HD95"].to_numpy() == pytest.approx(math.dist((0,) * 3, np.multiply(shape, SPACING)))
    assert result.statistics()["mean"].loc["liver", "Dice"] == pytest.approx(0.6)  # (0.9 + 0 + 0.9) / 3


def test_a_bad_reference_is_always_an_error(tmp_path):
    reference, prediction = dataset(tmp_path)
    write(reference / "case_0.nii.gz", label_map(0) * 5)
    with pytest.raises(UserError, match=r"labelsTr.*case_0\.nii\.gz holds label 5, 10"):
        evaluate_folders(reference, prediction, allow_missing=True)


def test_a_run_resumes_after_a_broken_file(tmp_path, monkeypatch):
    reference, prediction = dataset(tmp_path)
    good = (prediction / "case_1.nii.gz").read_bytes()
    spoil(prediction, "broken")
    with pytest.raises(UserError, match="The other 2 cases are kept"):
        evaluate_folders(reference, prediction, cache_dir=tmp_path / "cache")
    (prediction / "case_1.nii.gz").write_bytes(good)
    scored = []
    original = worker._score
    monkeypatch.setattr(worker, "_score", lambda job, pair: scored.append(pair.case) or original(job, pair))
    resumed = evaluate_folders(reference, prediction, cache_dir=tmp_path / "cache")
    assert scored == ["case_1"]
    assert resumed.table.equals(evaluate_folders(reference, prediction).table)
    scored.clear()
    evaluate_folders(
        reference, prediction, conventions=Conventions(border_neighbourhood=26), cache_dir=tmp_path / "cache"
    )
    assert len(scored) == 3  # other conventions, other results
    scored.clear()
    write(prediction / "case_2.nii.gz", label_map(2, 3))
    (tmp_path / "cache" / "case_0.json").write_text('{"finger')
    evaluate_folders(
        reference, prediction, conventions=Conventions(border_neighbourhood=26), cache_dir=tmp_path / "cache"
    )
    assert scored == ["case_0", "case_2"]  # one half-written, one predicted anew


def test_all_bad_cases_are_named_at_once(tmp_path):
    reference, prediction = dataset(tmp_path)
    spoil(prediction, "geometry")
    write(prediction / "case_2.nii.gz", label_map(2) * 3)
    with pytest.raises(UserError, match=r"2 of 3 cases cannot be scored: .*case_1.*; .*case_2"):
        evaluate_folders(reference, prediction, num_processes=2)


def test_only_annotated_classes_are_scored(tmp_path):
    reference, prediction = dataset(tmp_path, annotated_labels={"case_1": ["liver"]})
    result = evaluate_folders(reference, prediction)
    counts = result.counts()
    assert counts.loc["spleen", "unannotated"] == 1 and counts.loc["spleen", "scored"] == 2
    assert counts.loc["liver", "scored"] == 3


def test_cross_validation_results(tmp_path):
    reference, prediction = dataset(tmp_path / "raw")
    model = tmp_path / "results" / "Dataset001_X" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for i in range(3):
        folder = model / f"fold_{i}" / "validation"
        folder.mkdir(parents=True)
        (prediction / f"case_{i}.nii.gz").rename(folder / f"case_{i}.nii.gz")
    (tmp_path / "raw" / "dataset.json").rename(model / "dataset.json")
    result = evaluate_folders(reference, model)
    assert list(result.table["fold"].unique()) == ["fold_0", "fold_1", "fold_2"]
    one = evaluate_folders(reference, model / "fold_1" / "validation")
    assert list(one.table["case"].unique()) == ["case_1"]


def test_dataset_json_is_looked_for(tmp_path):
    with pytest.raises(UserError, match=r"reference folder .* does not exist"):
        find_dataset_json(tmp_path / "a", tmp_path)
    with pytest.raises(UserError, match="-djfile"):
        find_dataset_json(tmp_path, tmp_path)


def test_an_output_folder_that_cannot_be_made(tmp_path):
    reference, prediction = dataset(tmp_path, n=1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the output folder"):
        evaluate_folders(reference, prediction, cache_dir=tmp_path / "file" / "cases")


def test_no_torch_is_imported():
    code = (
        "import sys, nnunet_ext.evaluation.folders, nnunet_ext.cli.evaluation, nnunet_ext.evaluation.reading as r;"
        "r.find_readers({'file_ending': '.nii.gz', 'overwrite_image_reader_writer': 'SimpleITKIO'});"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "name", ["foreground", "mean over classes", "mean", "case", "label", "Dice", "", "NA", "$a$ $_b^"]
)
def test_a_class_may_have_any_name(tmp_path, name):
    """It stands beside the mean over classes in every table, file and figure, and comes back from the files."""
    reference, prediction = dataset(tmp_path, labels={"background": 0, name: 1, "spleen": 2}, shift=0)
    for i in range(3):  # only the class in question is wrong
        array = label_map(i, 3)
        array[array == 2] = 0
        array[(label_map(i) == 2)] = 2
        write(prediction / f"case_{i}.nii.gz", array)
    result = evaluate_folders(reference, prediction)
    result.save(tmp_path / "out")
    for one in (result, Evaluation.load(tmp_path / "out")):
        rows = [[cell.text for cell in row] for row in tables.summary_table(one, ["Dice"]).rows]
        assert [row[1] for row in rows] == ["70.00 ± 0.00", "100.00 ± 0.00", "85.00 ± 0.00"]
        assert len({row[0] for row in rows}) == 3
        assert one.per_case(name)["Dice"].tolist() == pytest.approx([0.7] * 3)
    models = {"a": result, "b": Evaluation.load(tmp_path / "out")}
    compared = compare(models, ["Dice"])
    assert [(r.key, round(r.mean_first, 2)) for r in compared] == [("1", 0.7), ("2", 1.0), ("foreground_mean", 0.85)]
    assert list(as_frame(compared)["key"]) == ["1", "2", "foreground_mean"]
    for html in (report.evaluation_report(result, [], "t"), report.comparison_report(models, compared, [], "t")):
        assert html.count("mean over classes") >= 1


def test_one_odd_header_does_not_change_the_reader_of_the_rest(tmp_path):
    reference, prediction = dataset(tmp_path)
    expected = evaluate_folders(reference, prediction).table
    for folder in (reference, prediction):  # skewed axes, which SimpleITK refuses
        file = folder / "case_1.nii.gz"
        image = nibabel.load(file)
        affine = image.affine.copy()
        affine[0, 2] += 0.3
        nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), affine), file)
    found = evaluate_folders(reference, prediction).table
    columns = [c for c in expected.columns if c not in {"note", "case"}]
    rest = expected["case"] != "case_1"
    assert found[rest].equals(expected[rest])
    np.testing.assert_allclose(found.loc[~rest, "Dice"], expected.loc[~rest, "Dice"])
    assert len(columns) > 20 and set(found["case"]) == set(expected["case"])


def change_header(folder, spacing=(5.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), turn=None):
    for i in range(3):
        array = label_map(i)
        write(folder / f"case_{i}.nii.gz", array if turn is None else np.flip(array, turn), spacing, origin)


def test_a_wrong_header_alone_is_never_scored_as_missed(tmp_path):
    reference, prediction = dataset(tmp_path)
    expected = evaluate_folders(reference, prediction).table
    change_header(reference)
    for missing in (False, True):
        with pytest.raises(UserError, match=r"3 of 3 cases cannot be scored: .*spacing.*--match array"):
            evaluate_folders(reference, prediction, allow_missing=missing)
    result = evaluate_folders(reference, prediction, match="array")
    for name in ("Dice", "HD95", "ASSD", "volume_ref_ml"):  # voxel sizes are those of the prediction
        np.testing.assert_allclose(result.table[name], expected[name])
    assert all("matched by array" in case["note"] for case in result.cases)


def test_arrays_in_another_order_are_not_matched(tmp_path):
    reference, prediction = dataset(tmp_path)
    change_header(reference, turn=2)
    with pytest.raises(UserError, match="better mirrored along x"):
        evaluate_folders(reference, prediction, match="array")


def test_predictions_of_which_none_can_be_used_are_no_result(tmp_path):
    reference, prediction = dataset(tmp_path)
    for i in range(3):
        write(prediction / f"case_{i}.nii.gz", label_map(i)[1:])
    with pytest.raises(UserError, match=r"None of the 3 predictions can be used.*shape 9 x 24 x 26"):
        evaluate_folders(reference, prediction, allow_missing=True)


@pytest.mark.parametrize("error", [-6e-8, 9e-4])
def test_labels_stored_as_floats_may_be_rounded(tmp_path, error):
    reference, prediction = dataset(tmp_path)
    write(prediction / "case_0.nii.gz", label_map(0, 1) + error)
    assert evaluate_folders(reference, prediction).table["Dice"].to_numpy() == pytest.approx(0.9)
    assert LABEL_ROUNDING == checks.LABEL_ROUNDING  # what can be converted can be evaluated


@pytest.mark.parametrize("what", ["reference", "prediction"])
@pytest.mark.parametrize("how", ["link", "folder"])
def test_what_is_no_file_is_named(tmp_path, what, how):
    reference, prediction = dataset(tmp_path)
    file = {"reference": reference, "prediction": prediction}[what] / "case_1.nii.gz"
    file.unlink()
    if how == "link":
        file.symlink_to("/no/such/file.nii.gz")
    else:
        file.mkdir()
    for only in (False, True):
        with pytest.raises(UserError, match=f"{file} cannot be read .*(/no/such/file|a folder)"):
            evaluate_folders(reference, prediction, only_predicted=only)


def test_other_formats_and_what_archives_leave(tmp_path):
    reference, prediction = dataset(tmp_path)
    expected = evaluate_folders(reference, prediction).table
    for folder in (reference, prediction):
        (folder / "._case_0.nii.gz").write_bytes(b"\0\5\x16\7")
        (folder / "overview.png").write_bytes(b"")
    for file, ending in ((reference / "case_0", ".mha"), (prediction / "case_1", ".nii")):
        sitk.WriteImage(sitk.ReadImage(f"{file}.nii.gz"), f"{file}{ending}")
        Path(f"{file}.nii.gz").unlink()
    result = evaluate_folders(reference, prediction)
    assert result.table.equals(expected)
    assert "case_1.nii." in result.notes[0] and "case_0.mha" in result.notes[1]


def test_a_full_disk_leaves_the_earlier_result(tmp_path, monkeypatch):
    reference, prediction = dataset(tmp_path)
    result = evaluate_folders(reference, prediction)
    result.save(tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write to .*out: No space left"):
        replace(result, notes=("new",)).save(tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"cannot write to .*cases: No space left"):
        evaluate_folders(reference, prediction, cache_dir=tmp_path / "cases")
