"""What was asked of a benchmark, read from plain data."""

import pytest

from nnunet_ext.benchmark.report.specification import Arm, Published, Setting, Specification
from nnunet_ext.core.errors import UserError

CONTENT = {
    "name": "x",
    "datasets": [{"id": 91, "name": "Dataset091_X"}, 92],
    "configurations": ["2d"],
    "arms": {
        "stock": "nnUNetTrainer",
        "options": {"trainer": "A", "options": {"weight": 1}},
        "plans": {"trainer": "A", "plans": "OtherPlans"},
        "differs": {"trainer": "B", "differs": ["plans"]},
    },
    "folds": [0, 1],
}


def test_what_is_not_said_has_a_default():
    made = Specification.from_dict(CONTENT, ["Dataset092_Y", "Dataset910_Z"])
    assert made.datasets == ("Dataset091_X", "Dataset092_Y")
    assert (made.plans, made.seeds, made.metrics, made.preset) == (
        ("nnUNetPlans",),
        (0,),
        ("Dice", "NSD_2mm", "HD95"),
        "papers",
    )
    assert made.settings == [Setting(name, "2d", "nnUNetPlans") for name in made.datasets]
    assert made.reference == "stock"


def test_arms_may_differ_in_what_they_declare():
    both, both_datasets = frozenset({"plans", "preprocessed"}), ("Dataset091_X", "Dataset092")
    assert Specification.from_dict(CONTENT).arms == (
        Arm("stock", "nnUNetTrainer", None, frozenset(), (0, 1), both_datasets, ("2d",)),
        Arm("options", "A", None, both, (0, 1), both_datasets, ("2d",)),
        Arm("plans", "A", "OtherPlans", both, (0, 1), both_datasets, ("2d",)),
        Arm("differs", "B", None, frozenset({"plans"}), (0, 1), both_datasets, ("2d",)),
    )


def test_printed_numbers():
    entry = {"dataset": 91, "arm": "stock", "label": "mean", "metric": "NSD_2mm", "value": 90}
    made = Specification.from_dict(CONTENT | {"published": [entry]}, ["Dataset091_X"])
    assert made.published == (Published("Dataset091_X", "stock", None, "NSD_2mm", 90.0, ""),)


def test_an_arm_may_have_folds_and_datasets_of_its_own():
    arms = {"stock": "nnUNetTrainer", "slow": {"trainer": "A", "folds": [1], "datasets": [92]}}
    made = Specification.from_dict(CONTENT | {"arms": arms, "seeds": [0, 1, 2]})
    assert (made.cells_of("stock"), made.cells_of("slow")) == (6, 3)
    assert [arm.datasets for arm in made.arms] == [("Dataset091_X", "Dataset092"), ("Dataset092",)]


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({}, "Dataset091_X"),
        ({"configurations": ["2d", "3d_fullres"]}, "Dataset091_X · 2d"),
        ({"plans": ["nnUNetPlans", "Other"]}, "Dataset091_X · nnUNetPlans"),
    ],
)
def test_titles_name_what_there_are_several_of(change, title):
    made = Specification.from_dict(CONTENT | change)
    setting = made.settings[0]
    assert made.title(setting) == title
    tested = setting._replace(test_set="AMOS")
    assert made.title(tested) == f"{title} · test set AMOS" and tested.training == setting
    assert tested.file_name == "Dataset091_X-2d-nnUNetPlans-AMOS"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"arms": {}}, "names no arms"),
        ({"arms": {"stock": {"options": {}}}}, "arm stock has no trainer"),
        ({"folds": "all"}, "folds takes numbers alone"),
        ({"metrics": ["Dise"]}, "unknown metric Dise"),
        ({"published": [{"arm": "stock", "metric": "Dice"}]}, "a published number lacks 'value'"),
        ({"published": [{"arm": "stock", "metric": "D", "value": 1}]}, "unknown metric D"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(change, words):
    with pytest.raises(UserError, match=words):
        Specification.from_dict(CONTENT | change)
