"""Examples in docstrings and in ``examples`` do what they say."""

import doctest
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.plugin.lookup import find_trainer
from tests.evaluation.folders import dataset as folders
from tests.training.building import build

EXAMPLES = Path(__file__).parents[1] / "examples"

PACKAGES = ["nnunet_ext.losses", "nnunet_ext.networks", "nnunet_ext.evaluation"]


@pytest.mark.parametrize("module", [*PACKAGES, "nnunet_ext.labels"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": importlib.import_module("torch")})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name).__doc__


def test_importing_a_package_is_quick():
    code = (
        "import sys, nnunet_ext.evaluation, nnunet_ext.networks; print({'pandas', 'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "set()\n"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_here():
    assert {file.stem for file in EXAMPLES.glob("*.py")} == {
        "own_trainer",
        "loss_outside_nnunet",
        "evaluate_in_python",
    }


def test_a_loss_trains_a_network_outside_nnunet():
    assert example("loss_outside_nnunet").main() > 0.95


def test_two_folders_are_evaluated_and_compared_from_python(tmp_path, capsys):
    labels, near = folders(tmp_path, shift=1)
    _, far = folders(tmp_path / "other", shift=3)
    dice = example("evaluate_in_python").main(labels, near, far.rename(tmp_path / "far"), tmp_path / "dataset.json")
    assert dice["predictions"] == pytest.approx(0.9) and dice["far"] == pytest.approx(0.7)
    assert "far - predictions, mean over classes: Dice -0.200" in capsys.readouterr().out


def test_a_trainer_of_ones_own_is_found_by_name_with_its_options(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(EXAMPLES))
    trainer = build(dataset, "", trainer=find_trainer("nnUNetTrainerMLLWarm_100epochs"), warm_epochs=20)
    assert trainer.options.boundary_weight == 0.5
    for epoch, factor in {0: 0, 19: 0, 20: 0.5 * 20 / 25, 50: 0.5}.items():
        trainer.current_epoch = epoch
        assert trainer.boundary_factor == pytest.approx(factor, abs=0.03)
