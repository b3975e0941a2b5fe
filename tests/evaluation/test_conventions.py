import json

import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import PRESETS, Conventions, conventions_from, parse_absent_distance


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json_and_describe_themselves(name):
    preset = PRESETS[name]
    assert preset.preset == name
    assert Conventions.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
    assert all(rule and choice for rule, choice in preset.describe())


def test_every_choice_shows_in_words():
    base = dict(Conventions().describe())
    changes = {
        "border_neighbourhood": 26,
        "edge_is_surface": False,
        "averaging": "mean_of_sides",
        "percentile_rule": "pooled",
        "volume_denominator": "prediction",
        "absent_distance": 12.5,
    }
    for field, value in changes.items():
        assert dict(conventions_from("papers", **{field: value}).describe()) != base, field


def test_changes_leave_the_rest():
    changed = conventions_from("chaos", border_neighbourhood=26, averaging=None)
    assert changed.border_neighbourhood == 26 and not changed.edge_is_surface and changed.scores == ("chaos",)


@pytest.mark.parametrize(
    "change",
    [
        {"border_neighbourhood": 8},
        {"averaging": "median"},
        {"percentile_rule": "min"},
        {"absent_distance": "zero"},
        {"absent_distance": -1.0},
        {"nsd_tolerances_mm": (-1.0,)},
        {"nsd_tolerances_mm": (float("inf"),)},
    ],
)
def test_impossible_choices(change):
    with pytest.raises(UserError):
        conventions_from("papers", **change)


def test_unknown_preset():
    with pytest.raises(UserError, match="papers, chaos, sliver07, lits"):
        conventions_from("kits")


def test_absent_option():
    assert [parse_absent_distance(t) for t in (None, "diagonal", "infinity", "12.5")] == [
        None,
        "diagonal",
        "infinity",
        12.5,
    ]
    with pytest.raises(UserError, match="--absent"):
        parse_absent_distance("far")
