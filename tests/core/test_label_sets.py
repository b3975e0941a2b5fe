import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import annotated_labels, foreground_names, label_values

LABELS = {"background": 0, "spleen": 2, "liver": 1, "ignore": 3}


def test_names_follow_the_networks_outputs():
    assert foreground_names(LABELS) == ["liver", "spleen"]
    regions = {"background": 0, "tumour": 2, "liver": [1, 2], "ignore": 3}
    assert foreground_names(regions) == ["tumour", "liver"]
    assert [label_values(regions[name]) for name in foreground_names(regions)] == [(2,), (1, 2)]


def test_label_sets_of_the_cases_that_are_asked_for():
    content = {"labels": LABELS, "annotated_labels": {"a": ["liver", "spleen"], "b": ["spleen"], "c": [], "d": "?"}}
    assert annotated_labels(content, ["c", "b", "a"]) == {
        "a": {"liver", "spleen"},
        "b": {"spleen"},
        "c": frozenset(),
    }
    assert annotated_labels({"labels": LABELS}, ["a"]) == {"a": {"liver", "spleen"}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"a": ["liver"]}, "annotated_labels of x/dataset.json has no entry for case b"),
        ({"a": ["liver"], "b": ["kidney", "spleen"]}, "names kidney for case b, but the labels are liver, spleen"),
        ({"a": ["liver"], "b": ["background"]}, "names background for case b"),
        ({"a": ["liver"], "b": "liver"}, "must give a list of labels for case b, not 'liver'"),
        (["a", "b"], "must be a table"),
    ],
)
def test_wrong_entries_are_named_in_one_sentence(entries, message):
    with pytest.raises(UserError, match=message):
        annotated_labels({"labels": LABELS, "annotated_labels": entries}, ["a", "b"], "x/dataset.json")
