"""The sentence at the start of training: what is needed, what the GPU has, and what to do where that is less."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist

from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.random_states import random_states
from nnunet_ext.training.cost.expectation import expectation
from nnunet_ext.training.cost.measure import GIB, cost_of_step, memory_of_step
from tests.conftest import DATASET, PLANS, Dataset
from tests.training.building import build

NAME = "nnUNetTrainerSDNetLabelled"


class LoadersStartError(Exception):
    """In place of the loaders."""


def started(dataset: Dataset, device: str, name: str = NAME) -> str:
    """The log of a training that is stopped where its loaders start, after the networks were built on the CPU."""

    def no_loaders() -> None:
        raise LoadersStartError

    trainer = build(dataset, name)
    trainer.initialize()
    trainer.device = torch.device(device)
    trainer.get_dataloaders = no_loaders
    states, files = random_states(), {*Path(trainer.output_folder).iterdir()}
    with pytest.raises(LoadersStartError):
        trainer.on_train_start()
    assert random.getstate() == states["python"]
    assert np.array_equal(np.random.get_state()[1], states["numpy"][1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states["torch"])
    assert {*Path(trainer.output_folder).iterdir()} == files
    return Path(trainer.log_file).read_text()


def gpu(monkeypatch: pytest.MonkeyPatch, free: float, total: float, reserved: float = 0) -> None:
    """A GPU with so many GiB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free * GIB), int(total * GIB)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved * GIB))


def needed(dataset: Dataset) -> float:
    plans, dataset_json = (
        json.loads((dataset.preprocessed / f"{name}.json").read_text()) for name in (PLANS, "dataset")
    )
    return cost_of_step(find_trainer(NAME), plans, "3d_fullres", dataset_json).memory / GIB


def test_it_says_what_is_needed_and_what_there_is(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, free=20, total=24, reserved=0.5)
    log = started(dataset, "cuda", f"{NAME}_2epochs")
    assert (
        f"A step of {NAME} on 3d_fullres is expected to need {needed(dataset):.1f} GiB of GPU memory and cuDNN's "
        "buffers; the GPU has 24.0 GiB, of which 20.5 GiB are free." in log
    )
    assert "plan-for" not in log
    assert "GiB" not in started(dataset, "cpu")


def test_where_the_gpu_has_less_it_names_the_command(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, free=0.0001, total=24)
    log = started(dataset, "cuda")
    assert f"plans that fit are written by nnunet-ext plan-for {NAME} -d {DATASET} -p {PLANS} -o NAME." in log


def test_what_is_not_known_is_said_and_training_goes_on(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(device: torch.device) -> tuple[int, int]:
        raise RuntimeError("CUDA error: not permitted")

    monkeypatch.setattr(torch.cuda, "mem_get_info", no_answer)
    assert "what the GPU has is not known (CUDA error: not permitted)." in started(dataset, "cuda")

    def by_value(trainer: nnUNetTrainer, batch: dict) -> dict:
        return {"loss": batch["data"].nonzero().sum()}

    monkeypatch.setattr(find_trainer(NAME), "train_step", by_value)
    log = started(dataset, "cuda")
    assert f"The memory that training needs is not known: A step of {NAME} cannot be simulated on 3d_fullres" in log


def test_with_several_gpus_it_is_that_of_one_and_waits_for_nobody(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans, dataset_json = (
        json.loads((dataset.preprocessed / f"{name}.json").read_text()) for name in (PLANS, "dataset")
    )
    half = plans["configurations"]["3d_fullres"] | {"batch_size": 1}
    expected = memory_of_step(
        find_trainer(NAME), {**plans, "configurations": {"3d_fullres": half}}, "3d_fullres", dataset_json
    )
    trainer = build(dataset, NAME)
    trainer.initialize()
    trainer.batch_size = 1
    monkeypatch.setattr(dist, "is_initialized", lambda: True)  # with no process group, so that any call of it fails
    gpu(monkeypatch, free=expected / GIB, total=24)
    assert "plan-for" not in expectation(trainer)
    gpu(monkeypatch, free=(expected - 2) / GIB, total=24)
    assert "plan-for" in expectation(trainer)
    monkeypatch.setattr(trainer, "batch_size", 2)
    gpu(monkeypatch, free=expected / GIB, total=24)
    assert "plan-for" in expectation(trainer)
