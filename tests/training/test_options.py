"""Options as data: where values come from, what is refused, and how the command line reads them."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.training.options import Options, changed, checked, meaning, option, parse, resolve, with_options


@dataclass(frozen=True)
class Own(Options):
    RENAMED: ClassVar = {"heft": "weight"}
    weight: float = option(1.0, "Weight.", "1, Eq. 2", at_least=0)
    weights: tuple[float, ...] = option((1.0, 0.5), "Weights.", at_least=0)
    form: Literal["a", "b"] = option("a", "Form.")
    start: float | None = option(None, "Start.", at_least=0, below=1)
    patches: int = option(5, "Patches.", above=0, at_most=9)
    restart: bool = option(False, "Restart.")


class Trainer:
    pass


class Mild(Trainer):
    weight = 0.1
    weights: ClassVar = [2, 3]


def resolved(trainer=Trainer, plans=None):
    return resolve(Own, trainer(), "nnUNetTrainerOwn", plans or {}, "plans.json")


def test_plans_win_over_attributes_and_attributes_over_defaults():
    assert resolved() == Own()
    assert resolved(Mild) == Own(weight=0.1, weights=(2.0, 3.0))
    plans = {"nnunet_ext": {"nnUNetTrainerOwn": {"weight": 0, "start": 0.5}, "nnUNetTrainerOther": {"x": 1}}}
    assert resolved(Mild, plans) == Own(weight=0.0, weights=(2.0, 3.0), start=0.5)
    assert isinstance(resolved(Mild, plans).weight, float)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("weight", -0.1, "weight must be a number at least 0, got -0.1"),
        ("weight", float("nan"), "weight must be a number at least 0, got nan"),
        ("weight", True, "got True"),
        ("weight", "1", "got '1'"),
        ("weights", [1, -1], "weights must be a list, each a number at least 0, got"),
        ("weights", 1.0, "weights must be a list"),
        ("form", "c", "form must be one of a, b, got 'c'"),
        ("start", 1, r"start must be a number at least 0 and below 1 or none, got 1"),
        ("patches", 0, "patches must be a whole number above 0 and at most 9, got 0"),
        ("patches", 2.5, "a whole number"),
        ("patches", 10, "got 10"),
        ("restart", 1, "restart must be true or false, got 1"),
    ],
)
def test_what_an_option_cannot_have_is_one_sentence(name, value, words):
    with pytest.raises(UserError, match=words):
        checked(Own, name, value, "here")
    with pytest.raises(UserError, match=words):
        resolved(plans={"nnunet_ext": {"nnUNetTrainerOwn": {name: value}}})
    with pytest.raises(UserError, match=words):
        resolved(type("Bad", (Trainer,), {name: value}))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wieght", "nnUNetTrainerOwn has no option wieght: did you mean weight"),
        ("heft", "did you mean weight"),
        ("zzz", "no option zzz: it has weight, weights, form, start, patches, restart"),
    ],
)
def test_unknown_names_in_plans(name, words):
    with pytest.raises(UserError, match=f"{words}.*plans.json"):
        resolved(plans={"nnunet_ext": {"nnUNetTrainerOwn": {name: 1}}})


@pytest.mark.parametrize("section", [[], {"nnUNetTrainerOwn": 3}])
def test_a_section_of_another_form(section):
    with pytest.raises(UserError, match=r'"nnunet_ext" in plans\.json must be of the form'):
        resolved(plans={"nnunet_ext": section})


def test_an_attribute_of_an_old_name_is_no_silent_default():
    with pytest.raises(UserError, match="heft of nnUNetTrainerOwn is called weight now: rename it in Old"):
        resolved(type("Old", (Trainer,), {"heft": 2.0}))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("weight", "1e-3", 0.001),
        ("weights", "1, 0.1", (1.0, 0.1)),
        ("form", "b", "b"),
        ("start", "none", None),
        ("start", "0.25", 0.25),
        ("patches", "7", 7),
        ("restart", "True", True),
    ],
)
def test_the_command_line_reads_every_type(name, text, value):
    assert parse(Own, name, text) == value


@pytest.mark.parametrize(("name", "text"), [("weight", "much"), ("patches", "1.5"), ("restart", "2"), ("form", "")])
def test_what_the_command_line_cannot_read(name, text):
    with pytest.raises(UserError, match=f"{name} must be"):
        parse(Own, name, text)


def test_plans_with_options_keep_the_rest():
    plans = {"plans_name": "a", "x": 1, "nnunet_ext": {"nnUNetTrainerOwn": {"form": "b"}, "other": {"y": 2}}}
    made = with_options(plans, "nnUNetTrainerOwn", {"weight": 0.5}, "b")
    assert made == {
        "plans_name": "b",
        "x": 1,
        "nnunet_ext": {"nnUNetTrainerOwn": {"form": "b", "weight": 0.5}, "other": {"y": 2}},
    }
    assert plans["nnunet_ext"]["nnUNetTrainerOwn"] == {"form": "b"}


def test_differences_and_changes():
    saved = {**Own(weight=3.0).as_dict(), "gone": 1}
    assert Own().differences(saved) == ["weight: 3.0, now 1.0"]
    assert changed(Own(), patches=2) == Own(patches=2)
    with pytest.raises(UserError, match="has no option weigth: did you mean weight"):
        changed(Own(), weigth=2)
    assert meaning(Own, "weight").paper == "1, Eq. 2"


def test_earlier_names_of_every_base_are_known():
    class Other(Options):
        RENAMED: ClassVar = {"mass": "weight"}

    class Both(Own, Other):
        pass

    class Heavy(Trainer):
        mass = 2.0

    with pytest.raises(UserError, match="mass of nnUNetTrainerOwn is called weight now"):
        resolve(Both, Heavy(), "nnUNetTrainerOwn", {}, "plans.json")
    for name in ("heft", "mass"):
        with pytest.raises(UserError, match="did you mean weight"):
            checked_plans = {"nnunet_ext": {"nnUNetTrainerOwn": {name: 1.0}}}
            resolve(Both, Trainer(), "nnUNetTrainerOwn", checked_plans, "plans.json")
