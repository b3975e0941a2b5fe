import json

import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.cases import find_cases, missing_message


@pytest.fixture
def root(tmp_path):
    (tmp_path / "labelsTr").mkdir()
    for case in "abcd":
        (tmp_path / "labelsTr" / f"{case}.nii.gz").touch()
    return tmp_path


def predict(folder, cases):
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / f"{case}.nii.gz").touch()
    (folder / "summary.json").touch()
    return folder


def find(root, folder, **options):
    return find_cases(root / "labelsTr", folder, ".nii.gz", **options)


def test_plain_folder(root):
    found = find(root, predict(root / "p", "abd"))
    assert [p.case for p in found.pairs] == list("abcd") and found.missing == ("c",) and not found.notes


def test_only_predicted_says_so(root):
    found = find(root, predict(root / "p", "ab"), only_predicted=True)
    assert [p.case for p in found.pairs] == ["a", "b"] and not found.missing
    assert "2 of 4 references were passed over" in found.notes[0]


def test_all_folds_together(root):
    model = root / "Dataset001_X" / "model"
    predict(model / "fold_0" / "validation", "ab")
    predict(model / "fold_1" / "validation", "cd")
    predict(model / "fold_all" / "validation", "abcd")
    found = find(root, model)
    assert [(p.case, p.fold) for p in found.pairs] == [
        ("a", "fold_0"),
        ("b", "fold_0"),
        ("c", "fold_1"),
        ("d", "fold_1"),
    ]
    assert not found.missing and not found.notes


def test_folds_are_held_against_the_splits(root, monkeypatch):
    model = root / "Dataset001_X" / "model"
    folder = predict(model / "fold_0" / "validation", "a")
    splits = root / "pre" / "Dataset001_X" / "splits_final.json"
    splits.parent.mkdir(parents=True)
    splits.write_text(json.dumps([{"train": ["c", "d"], "val": ["a", "b"]}, {"train": ["a", "b"], "val": ["c", "d"]}]))
    monkeypatch.setenv("nnUNet_preprocessed", str(root / "pre"))
    for place in (folder, model):
        assert find(root, place).missing == ("b",)
    monkeypatch.delenv("nnUNet_preprocessed")
    assert find(root, folder, splits_file=splits).missing == ("b",)
    without = find(root, folder)
    assert not without.missing and "would not be noticed" in without.notes[0]


def test_what_cannot_be_paired(root):
    with pytest.raises(UserError, match="does not exist"):
        find(root, root / "none")
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file"):
        find(root, root / "empty")
    with pytest.raises(UserError, match="no reference for the prediction of z"):
        find(root, predict(root / "p", "az"))
    model = root / "model"
    predict(model / "fold_0" / "validation", "ab")
    predict(model / "fold_1" / "validation", "b")
    with pytest.raises(UserError, match="case b was predicted in"):
        find(root, model)
    bad = root / "splits.json"
    bad.write_text("[]")
    with pytest.raises(UserError, match=r"splits\.json"):
        find(root, model / "fold_0" / "validation", splits_file=bad)


def test_long_lists_are_cut():
    assert missing_message(tuple("abcdefg"), 9) == "7 of 9 predictions missing: a, b, c, d, e and 2 more"


@pytest.mark.parametrize(
    ("predicted", "hint"),
    [("a_0000", "did you mean a"), ("A", "did you mean a"), ("case_1", "did you mean case_01"), ("zzz", "of zzz$")],
)
def test_names_that_nearly_fit(root, predicted, hint):
    (root / "labelsTr" / "case_01.nii.gz").touch()
    with pytest.raises(UserError, match=hint):
        find(root, predict(root / "p", [predicted]))


def test_a_folder_of_images_in_place_of_labels(root):
    images = predict(root / "imagesTr", ["a_0000", "b_0000"])
    with pytest.raises(UserError, match="is it the folder of label maps"):
        find_cases(images, predict(root / "p", "ab"), ".nii.gz")


def test_two_formats_of_a_case_are_a_choice(root):
    folder = predict(root / "p", "abc")
    for ending in (".nii", ".mha"):
        (folder / f"d{ending}").touch()
    with pytest.raises(UserError, match=r"d\.mha and d\.nii for case d"):
        find(root, folder)


def test_a_prediction_in_another_format_and_of_no_case_is_named(root):
    folder = predict(root / "p", "abcd")
    (folder / "e.nii").touch()
    (folder / "a.nii").touch()  # beside one in the right format
    found = find(root, folder)
    assert [pair.case for pair in found.pairs] == list("abcd")
    assert found.notes == (f"Passed over in {folder}, for no case has that name: e.nii.",)


def test_references_compared_with_themselves(root):
    assert "compared with themselves" in find(root, root / "labelsTr").notes[0]
