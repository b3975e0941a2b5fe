import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import PRESETS
from nnunet_ext.evaluation.targets import annotated_classes, label_scheme, read_dataset_json


def scheme(labels, preset="papers"):
    return label_scheme({"labels": labels, "file_ending": ".nii.gz"}, PRESETS[preset])


def test_labels_and_ignore():
    found = scheme({"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    assert [(t.name, t.key, t.members) for t in found.targets] == [("liver", "1", (1,)), ("spleen", "2", (2,))]
    assert found.labels == (0, 1, 2, 3) and found.ignore == 3


def test_regions_have_the_keys_of_nnunet():
    found = scheme({"background": 0, "whole": [1, 2], "core": [2], "edge": 3})
    assert [t.key for t in found.targets] == ["(1, 2)", "(2,)", "3"]


def test_region_keys_equal_those_nnunet_writes():
    pytest.importorskip("torch", reason="nnU-Net's label manager needs torch")
    from nnunetv2.evaluation.evaluate_predictions import label_or_region_to_key
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = {"background": 0, "whole": [1, 2], "core": [2], "edge": 3, "ignore": 4}
    manager = LabelManager(labels, regions_class_order=[1, 2, 3])
    assert [t.key for t in scheme(labels).targets] == [label_or_region_to_key(r) for r in manager.foreground_regions]


def test_lits_liver_includes_its_tumours():
    found = scheme({"background": 0, "liver": 1, "tumour": 2}, "lits")
    assert [(t.key, t.members) for t in found.targets] == [("(1, 2)", (1, 2)), ("2", (2,))]


@pytest.mark.parametrize("others", [("tumour", "spleen"), ("spleen",), ("gallbladder", "left_kidney")])
def test_other_classes_are_not_merged_into_a_liver(others):
    labels = {"background": 0, "liver": 1} | {name: i for i, name in enumerate(others, start=2)}
    with pytest.raises(UserError, match=others[0]):
        scheme(labels, "lits")
    assert len(scheme({"background": 0, "liver": 1}, "lits").targets[0].members) == 1


@pytest.mark.parametrize("labels", [{"background": 0}, {"background": 0, "ignore": 1}, {"background": 0, "a": "x"}])
def test_nothing_to_evaluate(labels):
    with pytest.raises(UserError, match=r"dataset\.json"):
        scheme(labels)


def test_dataset_json_must_be_one(tmp_path):
    file = tmp_path / "dataset.json"
    for text, message in (("{", "cannot read"), ("{}", "labels"), ('{"labels": {}}', "file_ending")):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_dataset_json(file)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"background": 0, "liver": 1.5}, "integers"),
        ({"background": 0, "liver": True}, "integers"),
        ({"background": 0, "liver": -1}, "integers"),
        ({"background": 0, "liver": []}, "integers"),
        ({"background": 0, "liver": 10**9}, "integers"),
        ({"0": "background", "1": "liver"}, "not number: name"),
        ({"background": 0, "liver": 1, "spleen": 1}, "'spleen' and 'liver' the same value"),
        ({"background": 0, "whole": [0, 1]}, "which is background"),
        ({"background": 0, "liver": 1, "ignore": 1}, "the value of ignore"),
        ({"background": 0, "liver": 1, "ignore": 0}, "ignore"),
        ({"background": 0, "liver \ud800": 1}, "no text"),
    ],
)
def test_tables_of_labels_that_mean_nothing(labels, message):
    with pytest.raises(UserError, match=message):
        label_scheme({"labels": labels})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"labels": {"liver": 1, "liver": 2}, "file_ending": ".nii"}', "'liver' twice"),
        ('{"labels": ["background", "liver"], "file_ending": ".nii"}', "no 'labels'"),
        ('{"labels": {"liver": 1}, "file_ending": "nii"}', "does not begin with a dot"),
        ('{"labels": {"liver": 1}, "file_ending": null}', "no 'file_ending'"),
        ("[]", "no 'labels'"),
        ("[" * 100_000, "cannot read"),
    ],
)
def test_what_is_no_dataset_json(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_dataset_json(tmp_path / "dataset.json")


@pytest.mark.parametrize("table", [["a"], {"a": "liver"}, {"a": ["lever"]}, {"a": [["liver"]]}])
def test_tables_of_annotated_labels(table):
    targets = label_scheme({"labels": {"background": 0, "liver": 1}}).targets
    assert annotated_classes({"annotated_labels": {"a": ["liver"], "b": [1]}}, targets) == {"a": ("liver",), "b": (1,)}
    with pytest.raises(UserError, match="annotated_labels"):
        annotated_classes({"annotated_labels": table}, targets)
