from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.benchmark.jobs.prepare import metrics_fingerprint
from nnunet_ext.benchmark.postprocessing import postprocessed
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.benchmark.workspace import Run, Workspace
from nnunet_ext.core.files import write_text

BENCHMARK = {"datasets": [4], "arms": {"stock": "nnUNetTrainer"}, "resources": {"cpus": 1}}


def write(folder: Path, labels: dict) -> np.ndarray:
    import json

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


def test_scores_with_and_without_it_are_not_mixed(tmp_path):
    spec = parse(BENCHMARK, "b", tmp_path)
    plain = metrics_fingerprint(Workspace(tmp_path, spec, Run()))
    other = metrics_fingerprint(Workspace(tmp_path, replace(spec, postprocessing="largest_component"), Run()))
    assert plain != other
