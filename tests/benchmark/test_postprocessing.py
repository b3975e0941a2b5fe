import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark.jobs import scoring
from nnunet_ext.benchmark.jobs.prepare import metrics_fingerprint
from nnunet_ext.benchmark.jobs.scoring import predictions_folder
from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.postprocessing import postprocessed
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.benchmark.workspace import Run, Workspace, write_state
from nnunet_ext.core.files import write_text
from tests.benchmark.running import space_of

BENCHMARK = {"datasets": [4], "arms": {"stock": "nnUNetTrainer"}, "resources": {"cpus": 1}}


def write(folder: Path, labels: dict) -> np.ndarray:
    array = np.zeros((2, 8, 9), np.uint8)
    array[:, 1:4, 1:4] = 1
    array[:, 6, 6:8] = 1  # smaller, apart
    array[0, 1:4, 5] = 2
    array[0, 6, 1] = 2
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.5, 0.5, 3.0))
    folder.mkdir()
    sitk.WriteImage(image, str(folder / "a.nii.gz"))
    about = {"labels": labels, "channel_names": {"0": "CT"}, "file_ending": ".nii.gz", "numTraining": 1}
    write_text(folder.parent / "dataset.json", json.dumps(about))
    return array


@pytest.mark.parametrize("cpus", [1, 2])
def test_largest_component_of_each_class(tmp_path, cpus):
    array = write(tmp_path / "p", {"background": 0, "liver": 1, "spleen": 2})
    spec = parse(BENCHMARK | {"postprocessing": "largest_component", "resources": {"cpus": cpus}}, "b", tmp_path)
    before = (tmp_path / "p" / "a.nii.gz").read_bytes()
    with postprocessed(spec, tmp_path / "p", tmp_path / "dataset.json") as folder:
        image = sitk.ReadImage(str(folder / "a.nii.gz"))
    expected = array.copy()
    expected[:, 6] = 0
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), expected)
    assert image.GetSpacing() == (0.5, 0.5, 3.0)
    assert (tmp_path / "p" / "a.nii.gz").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["p"]


def test_largest_component_of_a_region(tmp_path):
    array = write(tmp_path / "p", {"background": 0, "whole": [1, 2], "part": 2})
    array[:, 1:4, 4] = 1  # joins label 2 to the larger component of the region
    array[0, 1:4, 6] = 1  # which label 2 joins to it
    image = sitk.GetImageFromArray(array)
    sitk.WriteImage(image, str(tmp_path / "p" / "a.nii.gz"))
    spec = parse(BENCHMARK | {"postprocessing": "largest_component"}, "b", tmp_path)
    with postprocessed(spec, tmp_path / "p", tmp_path / "dataset.json") as folder:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "a.nii.gz")))
    expected = array.copy()
    expected[:, 6] = 0
    np.testing.assert_array_equal(found, expected)


def test_without_it_predictions_are_scored_as_they_are(tmp_path):
    spec = parse(BENCHMARK, "b", tmp_path)
    with postprocessed(spec, tmp_path / "p", tmp_path / "dataset.json") as folder:
        assert folder == tmp_path / "p"


def test_validation_and_test_sets_are_scored_after_it(tmp_path, monkeypatch):
    sets = {"other": {"images": str(tmp_path), "labels": str(tmp_path)}}
    space = space_of(
        tmp_path, "Dataset090_X", Run(), arms={"stock": "nnUNetTrainer"}, postprocessing="largest_component",
        test_sets=sets,
    )  # fmt: skip
    (cell,) = cells_of(space.spec)
    folder, data = cell.folder(tmp_path), tmp_path / cell.dataset
    data.mkdir()
    predictions_folder(folder, "other").parent.mkdir(parents=True)
    for predictions in (data / "validation", predictions_folder(folder, "other")):
        write(predictions, {"background": 0, "liver": 1, "spleen": 2})
    write_state(folder, {"validation": str(data / "validation"), "cases": ["a"]})
    scored = []

    def score(spec, references, predictions, about, cases):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(predictions / "a.nii.gz")))
        scored.append((references, image[:, 6].any(), cases))
        return ""

    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    monkeypatch.setattr(scoring, "score", score)
    monkeypatch.setattr(scoring, "finish", lambda *_: None)
    scoring.evaluate(space, cell)
    assert scored == [(data / "gt_segmentations", False, ["a"]), (tmp_path, False, None)]


def test_scores_with_and_without_it_are_not_mixed(tmp_path):
    spec = parse(BENCHMARK, "b", tmp_path)
    plain = metrics_fingerprint(Workspace(tmp_path, spec, Run()))
    other = metrics_fingerprint(Workspace(tmp_path, replace(spec, postprocessing="largest_component"), Run()))
    assert plain != other
