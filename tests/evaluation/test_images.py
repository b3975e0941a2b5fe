"""Images that belong to label maps."""

import json

import numpy as np
import pytest

from nnunet_ext.evaluation.images import channel_names, find_image, grey_values, raw_folders, read_channels
from nnunet_ext.evaluation.reading import UnreadableError, find_readers
from tests.evaluation.folders import dataset, write

JSON = {"file_ending": ".nii.gz"}
NAME = "Dataset007_Pancreas"


def test_the_raw_dataset_is_found_from_a_model_or_preprocessed_folder(tmp_path, monkeypatch):
    dataset(tmp_path / "nnUNet_raw" / NAME, n=1)
    raw = tmp_path / "nnUNet_raw" / NAME
    elsewhere = tmp_path / "nnUNet_preprocessed" / NAME / "gt_segmentations"
    elsewhere.mkdir(parents=True)
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert raw_folders([elsewhere]) == []
    assert raw_folders([raw / "dataset.json", raw / "labelsTr"]) == [raw]
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    assert raw_folders([tmp_path / "results" / NAME / "model" / "dataset.json"]) == [raw]
    assert raw_folders([elsewhere]) == [raw]
    assert raw_folders([tmp_path / "nnUNet_results" / "Dataset008_Other"]) == []
    image = raw / "imagesTr" / "case_0_0000.nii.gz"
    assert find_image("case_0", elsewhere / "case_0.nii.gz", JSON, None, [raw]) == image
    assert find_image("case_0", elsewhere / "case_0.nii.gz", JSON) is None


def test_where_a_folder_is_given_nothing_else_is_searched(tmp_path):
    reference, _ = dataset(tmp_path / "raw", n=1)
    own = write(tmp_path / "own" / "case_0_0000.nii.gz", np.zeros((2, 2, 2)))
    content = {**JSON, "dataset": {"case_0": {"images": ["imagesTr/case_0_0000.nii.gz"], "label": "-"}}}
    assert find_image("case_0", reference / "case_0.nii.gz", content, own.parent) == own
    found = find_image("case_0", tmp_path / "gt" / "case_0.nii.gz", content, None, [tmp_path / "raw"])
    assert found == tmp_path / "raw" / "imagesTr" / "case_0_0000.nii.gz"
    assert find_image("case_0", reference / "case_0.nii.gz", content, tmp_path / "empty") is None


def test_all_channels_are_read_and_what_cannot_be_is_named(tmp_path):
    files = [write(tmp_path / f"a_000{i}.nii.gz", np.full((2, 3, 4), 10.0 * i)) for i in range(3)]
    channels = read_channels(files, find_readers(JSON))
    assert channels.shape == (3, 2, 3, 4) and channels[2].mean() == 20
    files[1].write_bytes(b"no image")
    with pytest.raises(UnreadableError, match=r"a_0000\.nii\.gz cannot be read as an image"):
        read_channels(files, find_readers(JSON))
    other = write(tmp_path / "b_0000.nii.gz", np.zeros((2, 3, 5)))
    with pytest.raises(UnreadableError, match="same shape"):
        read_channels([files[0], other], find_readers(JSON))


def test_grey_values_of_ct_have_a_window():
    image = np.array([[-1000.0, -160.0, 40.0, 240.0, 3000.0]])
    assert grey_values(image, "CT").tolist() == [[0, 0, 0.5, 1, 1]]
    assert np.ptp(grey_values(np.linspace(0, 5, 100).reshape(10, 10), "MRI")) == 1
    assert grey_values(np.ones((2, 2)), "MRI").max() == 0
    assert channel_names(json.loads('{"channel_names": {"0": "T1", "1": "T2"}}')) == ["T1", "T2"]
    assert channel_names({"channel_names": 3}) == []
