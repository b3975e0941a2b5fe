"""nnunet-ext options: the tables and the plans it writes, which the trainers then follow."""

import contextlib
import dataclasses
import json
import re
import typing
from fractions import Fraction

import pytest
from typer.testing import CliRunner

from nnunet_ext.cli.app import app
from nnunet_ext.cli.options import write_plans
from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.options import checked, meaning, parse, types_of
from tests.conftest import PLANS
from tests.training.building import build


def run(*arguments, columns=200):
    return CliRunner().invoke(app, ["options", *arguments], env={"COLUMNS": str(columns)})


def test_names_are_whole_in_a_narrow_terminal():
    words = run("nnUNetTrainerMLN", columns=80).output.split()
    assert set(types_of(find_trainer("nnUNetTrainerMLN").options_class)) <= set(words)


def test_all_trainers_are_listed():
    output = run().output
    assert all(name in output for name in TRAINERS)


@pytest.mark.parametrize("name", TRAINERS)
def test_each_option_has_its_line(name):
    result = run(name)
    assert result.exit_code == 0
    assert "what it does" in result.output


# Defaults that are not what the paper prints, by name; those of ablations are in the paper too.
DEPARTURES = {
    "adversarial_weights": (0.001,),
    "basic_weights": None,
    "region_loss": "stock",
    "boundary_scale": "organ",
    "boundary_absent": True,
    "restart_learning_rate": False,
    "shared_box": True,
    "optimiser": "stock",
    "residual": True,
    "residual_fusion": True,
    "dual_step": "scaled",
    "difference_start": 0.5,
    "unlabelled_start": 0.5,
    "upsampling": 0,
}
ABLATIONS = {
    "boundary_weight": 0.0,
    "pixel_weight": 0.0,
    "pixel_module": "mlp",
    "fusion": "convolutions",
    "fine_weight": 1.0,
    "prior_weight": 0.0,
}


def test_defaults_are_what_the_papers_print():
    found, compared = {}, set()
    for trainer in map(find_trainer, TRAINERS):
        for field in dataclasses.fields(trainer.options_class):
            printed = field.metadata["meaning"].paper.partition(" (")[0].partition(";")[0].removesuffix(" epochs")
            default = getattr(trainer, field.name, field.default)
            if not printed:
                continue
            with contextlib.suppress(UserError, ValueError):  # words, or a rule
                if isinstance(default, float):
                    printed = float(Fraction(printed.replace(" of ", "/")))
                else:
                    printed = parse(trainer.options_class, field.name, printed)
                compared.add(field.name)
                if default != printed:
                    found[field.name] = default
    assert found == DEPARTURES | ABLATIONS
    assert len(compared) > 25


def test_options_have_a_text_and_limits_which_their_defaults_keep():
    for trainer in map(find_trainer, TRAINERS):
        for name, kind in types_of(trainer.options_class).items():
            known, default = meaning(trainer.options_class, name), getattr(trainer.options_class(), name)
            assert known.text and checked(trainer.options_class, name, default, "") == default, name
            if {int, float} & {kind, *typing.get_args(kind)}:
                assert (known.at_least if known.above is None else known.above) in (0, 1), name
            if re.search("raction of the run|hare of", known.text):
                assert (known.at_most if known.below is None else known.below) == 1, name


def test_an_ablation_shows_its_own_default():
    (line,) = [line for line in run("nnUNetTrainerRegionBoundary").output.splitlines() if "pixel_weight" in line]
    assert line.split()[1] == "0"
    assert "at least 0" in line


def test_plans_with_options_are_followed(writable_dataset):
    file = write_plans("nnUNetTrainerMLL_5epochs", ["boundary_weight=0.25", "region_loss=dice"], "90", PLANS, "mild")
    plans = json.loads(file.read_text())
    assert plans["plans_name"] == "mild"
    assert plans["nnunet_ext"] == {"nnUNetTrainerMLL": {"boundary_weight": 0.25, "region_loss": "dice"}}
    for name, weight in (("nnUNetTrainerMLL_2epochs", 0.25), ("nnUNetTrainerRegionPixel", 0.0)):
        trainer = build(writable_dataset, name, change_plans=lambda content: content.update(plans))
        assert trainer.options.boundary_weight == weight
    with pytest.raises(UserError, match=r"mild\.json exists already"):
        write_plans("nnUNetTrainerMLL", ["boundary_weight=0.5"], "90", PLANS, "mild")


@pytest.mark.parametrize(
    ("trainer", "setting", "plans", "output", "words"),
    [
        (
            "nnUNetTrainerMLL",
            "boundary_wieght=1",
            PLANS,
            "x",
            "no option boundary_wieght: did you mean boundary_weight",
        ),
        ("nnUNetTrainerMLL", "boundary_weight=-1", PLANS, "x", "boundary_weight must be a number at least 0, got -1"),
        ("nnUNetTrainerMLL", "boundary_weight", PLANS, "x", "--set takes option=value"),
        ("nnUNetTrainerMLL", "boundary_weight=1", "none", "x", "There is no .*none.json: plan first"),
        ("nnUNetTrainerMLL", "boundary_weight=1", PLANS, "a/b", "The name of plans has letters"),
        ("nnUNetTrainerML", "boundary_weight=1", PLANS, "x", "nnUNetTrainerMLL"),
        ("nnUNetTrainer", "boundary_weight=1", PLANS, "x", "not a trainer of nnunet_ext"),
    ],
)
def test_what_cannot_be_written_is_one_sentence(dataset, trainer, setting, plans, output, words):
    with pytest.raises(UserError, match=words):
        write_plans(trainer, [setting], "90", plans, output)


def test_setting_needs_a_dataset_and_a_name():
    result = run("nnUNetTrainerMLL", "--set", "boundary_weight=1")
    assert result.exit_code == 2
    assert "--set needs a trainer, -d and -o" in result.output
