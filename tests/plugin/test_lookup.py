"""Names: ours, stock ones, other folders, run lengths, and names that do not exist."""

import importlib
import os
import pickle

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find_as_nnunet

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import did_you_mean, find_trainer
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.plugin.startup import VARIABLE, plugin_folder
from tests.training.building import build


@pytest.mark.parametrize("name", TRAINERS)
def test_stock_search_finds_each_trainer_and_it_pickles(name):
    found = find_as_nnunet(name)
    assert found.__name__ == name
    assert found.__module__ == TRAINERS[name].module
    assert pickle.loads(pickle.dumps(found)) is found
    assert all(TRAINERS[name].details().values())


def test_variant_of_ours_and_of_stock_trainers(dataset):
    trainer = build(dataset, "nnUNetTrainerRefinedGAN_3epochs_12iters")
    assert (trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch) == (3, 12, 2)
    assert type(trainer).__name__ == "nnUNetTrainerRefinedGAN_3epochs_12iters"
    assert pickle.loads(pickle.dumps(type(trainer))) is type(trainer)  # as -num_gpus sends it to its processes
    assert trainer.my_init_kwargs.keys() == {"plans", "configuration", "fold", "dataset_json", "device"}
    assert "nnUNetTrainerRefinedGAN_3epochs_12iters__" in trainer.output_folder
    short = build(dataset, "nnUNetTrainerNoMirroring_2iters")
    assert (short.num_epochs, short.num_iterations_per_epoch, short.num_val_iterations_per_epoch) == (1000, 2, 1)


def test_variant_pickles_and_is_one_class():
    variant = find_as_nnunet("nnUNetTrainerRefinedGAN_2epochs")
    assert pickle.loads(pickle.dumps(variant)) is variant
    assert find_trainer("nnUNetTrainerRefinedGAN_2epochs") is variant


def test_stock_names_and_suffixes_on_names_that_look_like_variants():
    assert find_trainer("nnUNetTrainer") is nnUNetTrainer
    variant = find_trainer("nnUNetTrainerBenchmark_5epochs_10iters")
    assert variant.__mro__[1].__name__ == "nnUNetTrainerBenchmark_5epochs"
    with pytest.raises(AttributeError, match="no trainer called nnUNetTrainerNone_3epochs"):
        find_trainer("nnUNetTrainerNone_3epochs")


def test_an_error_inside_our_module_is_not_taken_for_a_wrong_name(monkeypatch):
    def broken(module, import_module=importlib.import_module):
        if module.startswith("nnunet_ext."):
            raise AttributeError("module 'torch' has no attribute 'something'")
        return import_module(module)

    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(ImportError, match="no attribute 'something'"):
        find_as_nnunet("nnUNetTrainerRefinedGAN")


def test_a_stock_variant_of_the_name_wins():
    assert find_as_nnunet("nnUNetTrainer_5epochs").__module__.startswith("nnunetv2.")


def test_variant_of_a_trainer_in_a_folder_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "my_own_trainers.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerMine(nnUNetTrainer):\n    pass\n"
    )
    monkeypatch.setenv(VARIABLE, os.pathsep.join([str(tmp_path), plugin_folder()]))
    assert find_as_nnunet("nnUNetTrainerMine_2epochs").__mro__[1].__name__ == "nnUNetTrainerMine"


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("nnUNetTrainerRefinedGan", "nnUNetTrainerRefinedGAN"),
        ("nnUNetTrainerRefindGAN_5epochs", "nnUNetTrainerRefinedGAN_5epochs"),
        ("nnunettrainerAuxiliaryGAN", "nnUNetTrainerAuxiliaryGAN"),
        ("nnUNetTrainerNoMiroring", "nnUNetTrainerNoMirroring"),
    ],
)
def test_did_you_mean(wrong, right):
    assert f"did you mean {right}" in did_you_mean(wrong)


@pytest.mark.parametrize("name", ["nnUNetTrainerRefinedGAN_0epochs", "nnUNetTrainer_3epochs_0iters"])
def test_a_run_of_nothing(name):
    assert "at least 1 epoch" in did_you_mean(name)


def test_unknown_name_is_one_sentence_when_ours_is_the_last_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, plugin_folder())
    with pytest.raises(UserError, match="did you mean nnUNetTrainerRefinedGAN"):
        find_as_nnunet("nnUNetTrainerRefinedGA")
    with pytest.raises(UserError, match="nnunet-ext trainers"):
        find_as_nnunet("nnUNetTrainerQqqqqqqqqqqq")


def test_folders_after_ours_are_still_searched(tmp_path, monkeypatch):
    (tmp_path / "later_trainers.py").write_text(
        "from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
        "class nnUNetTrainerLater(nnUNetTrainer):\n    pass\n"
    )
    monkeypatch.setenv(VARIABLE, os.pathsep.join([plugin_folder(), str(tmp_path)]))
    assert issubclass(find_as_nnunet("nnUNetTrainerLater"), nnUNetTrainer)
