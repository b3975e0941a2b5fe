"""What a simulated step counts, against real tensors on the CPU and sums by hand."""

from __future__ import annotations

import json

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.training.cost.measure import TensorMemory, cost_of_step
from tests.conftest import PLANS, Dataset
from tests.training.building import build, random_batch


def read(dataset: Dataset) -> tuple[dict, dict]:
    return tuple(json.loads((dataset.preprocessed / f"{name}.json").read_text()) for name in (PLANS, "dataset"))


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_the_peak_is_that_of_real_tensors(dataset: Dataset, configuration: str) -> None:
    plans, dataset_json = read(dataset)
    simulated = cost_of_step(nnUNetTrainer, plans, configuration, dataset_json, half_precision=False)

    trainer = build(dataset, "nnUNetTrainer", configuration)
    memory = TensorMemory()
    with memory:
        trainer.initialize()
        trainer.set_deep_supervision_enabled(True)
        for tensor in (*trainer.network.parameters(), *trainer.network.buffers()):
            memory.add(tensor)
        trainer.train_step(random_batch(trainer))
        batch = random_batch(trainer)
        memory.peak = memory.now
        trainer.train_step(batch)
    assert simulated.memory == pytest.approx(memory.peak, rel=0.1)
    assert simulated.parameters == sum(p.numel() for p in trainer.network.parameters())
    assert simulated.batch_size == 2


@pytest.mark.parametrize("name", ["nnUNetTrainerSDNet", "nnUNetTrainerPaNN", "nnUNetTrainerRefinedGAN"])
def test_two_networks_and_teachers_cost_more_than_stock(dataset: Dataset, name: str) -> None:
    plans, dataset_json = read(dataset)
    stock, own = (cost_of_step(find_trainer(n), plans, "3d_fullres", dataset_json) for n in ("nnUNetTrainer", name))
    assert own.memory > stock.memory
    assert own.flops > stock.flops
    assert (own.parameters > stock.parameters) == (name != "nnUNetTrainerPaNN")


class nnUNetTrainerAsks(nnUNetTrainer):
    def train_step(self, batch: dict) -> dict:
        return {"loss": batch["data"].nonzero().sum()}


def test_a_step_that_depends_on_values_is_refused(dataset: Dataset) -> None:
    plans, dataset_json = read(dataset)
    with pytest.raises(UserError, match=r"nnUNetTrainerAsks cannot be simulated on 2d \(DynamicOutputShape"):
        cost_of_step(nnUNetTrainerAsks, plans, "2d", dataset_json)
    assert torch.ones(2).numpy().sum() == 2  # all is as it was
