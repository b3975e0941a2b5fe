"""The page that shows a raw dataset."""

import json
import re

import numpy as np
import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.preview import class_colours, preview_page, shown_slice, spread, training_files
from nnunet_ext.evaluation.targets import label_scheme
from tests.evaluation.folders import LABELS, dataset, label_map, write


def change(root, **content):
    file = root / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | content))


def test_every_case_and_channel_is_on_one_page(tmp_path):
    dataset(tmp_path)
    for i in range(3):
        write(tmp_path / "imagesTr" / f"case_{i}_0001.nii.gz", label_map(i) * 3.0)
    change(tmp_path, channel_names={"0": "CT", "1": "<PET>"}, name="Some & other")
    told = []
    page, pictures = preview_page(tmp_path, 10, progress=lambda *said: told.append(said))
    assert told == [(i + 1, 3, f"case_{i}") for i in range(3)]
    assert page.count("data:image/jpeg") == 6
    assert not re.findall(r'(?:src|href)="(?!#|data:)[^"]*"|url\((?!#)|@import', page)  # nothing is fetched
    assert "Some &amp; other" in page and "case_1</b> · &lt;PET&gt;" in page
    assert [picture.lacking for picture in pictures] == [()] * 3
    truth = label_map(1)
    assert pictures[1].volumes == pytest.approx(
        {name: (truth == value).sum() * 2.5 * 0.8 * 0.7 / 1000 for name, value in LABELS.items() if value}, rel=1e-5
    )
    assert pictures[1].where.startswith("axial slice ") and "10 x 24 x 26 voxels of 2.5 x 0.8 x 0.7 mm" in page


def test_the_slice_shows_small_classes_beside_large_ones():
    liver, kidney = np.array([0, 900, 1000, 800, 0]), np.array([0, 0, 0, 40, 50])
    assert shown_slice([liver]) == 2
    assert shown_slice([liver, kidney]) == 3
    assert shown_slice([np.zeros(5, int)] * 2) == 2


def test_what_is_odd_is_said_beside_its_case(tmp_path):
    reference, _ = dataset(tmp_path, n=5, annotated_labels={f"case_{i}": ["liver", "spleen"] for i in range(4)})
    change(tmp_path, annotated_labels={"case_3": ["liver"]})
    write(reference / "case_0.nii.gz", label_map(0) * (label_map(0) != 2))
    write(reference / "case_1.nii.gz", label_map(1) * 3)
    write(reference / "case_2.nii.gz", np.zeros((3, 4, 5), np.uint8))
    write(reference / "case_3.nii.gz", label_map(3) * (label_map(3) != 2))
    (reference / "case_4.nii.gz").write_bytes(b"not an image")
    page, (first, second, third, fourth, fifth) = preview_page(tmp_path, 10)
    assert first.lacking == ("spleen",) and "no spleen" in page
    assert second.remarks == ("its label holds 3, 6, which dataset.json does not name",)
    assert "case_2 has a label of 3 x 4 x 5 voxels, and an image of 10 x 24 x 26" in third.problem
    assert fourth.lacking == () and fourth.remarks == ("annotated_labels: liver",)
    assert "case_4.nii.gz cannot be read as a label map" in fifth.problem
    assert page.count("data:image/jpeg") == 3 and third.problem in page


def test_regions_and_the_ignore_label_have_contours(tmp_path):
    labels = {"background": 0, "both": [1, 2], "spleen": [2], "ignore": 3}
    reference, _ = dataset(tmp_path, n=1, labels=labels)
    array = label_map(0)
    array[:, -4:] = 3
    write(reference / "case_0.nii.gz", array)
    _, (picture,) = preview_page(tmp_path, 10)
    assert set(picture.volumes) == {"both", "spleen", "ignore"}
    assert len(set(class_colours(label_scheme({"labels": labels})).values())) == 3
    many = {"background": 0, **{f"organ {i}": i for i in range(1, 105)}}
    assert len(set(class_colours(label_scheme({"labels": many})).values())) == 104


def test_a_large_dataset_is_shown_from_first_to_last(tmp_path):
    dataset(tmp_path, n=5)
    files = training_files(tmp_path, json.loads((tmp_path / "dataset.json").read_text()))
    assert [each.case for each in spread(files, 3)] == ["case_0", "case_2", "case_4"]
    assert len(spread(files, 50)) == 5
    assert "5 labelled cases, 2 of them here" in preview_page(tmp_path, 2)[0]


def test_images_that_lie_elsewhere_are_found_by_dataset_json(tmp_path):
    dataset(tmp_path / "source", n=1)
    (tmp_path / "linked").mkdir()
    entry = {"images": ["../source/imagesTr/case_0_0000.nii.gz"], "label": "../source/labelsTr/case_0.nii.gz"}
    content = {"labels": LABELS, "file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "dataset": {"case_0": entry}}
    (tmp_path / "linked" / "dataset.json").write_text(json.dumps(content))
    assert preview_page(tmp_path / "linked", 10)[0].count("data:image/jpeg") == 1


@pytest.mark.parametrize("broken", [["case_0"], {"case_0": {"image": 3}}, {"case_0": []}])
def test_a_table_of_cases_that_nnunet_cannot_read_is_refused(tmp_path, broken):
    dataset(tmp_path, n=1)
    change(tmp_path, dataset=broken)
    with pytest.raises(UserError, match="must be a table of cases"):
        preview_page(tmp_path, 10)


def test_a_folder_without_labelled_cases_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}))
    with pytest.raises(UserError, match="no raw dataset with labelled cases"):
        preview_page(tmp_path, 10)
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(UserError, match="no labelled cases"):
        preview_page(tmp_path, 10)
