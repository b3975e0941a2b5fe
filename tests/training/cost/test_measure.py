"""What a simulated step counts, against real tensors on the CPU and sums by hand."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.cost.measure import Cost, Step, cost_of_step, memory_of_step
from nnunet_ext.training.cost.simulation import without_data
from tests.conftest import PLANS, Dataset
from tests.trainers.test_coarse_to_fine import narrow
from tests.training.narrow_vgg19 import use_narrow


def read(dataset: Dataset, configuration: str) -> tuple[dict, str, dict]:
    """What :func:`cost_of_step` takes beside a trainer."""
    plans, dataset_json = (
        json.loads((dataset.preprocessed / f"{name}.json").read_text()) for name in (PLANS, "dataset")
    )
    return plans, configuration, dataset_json


STOCK = "nnUNetTrainer"
# Those that run on slices, as many as a patch has.
IN_2D = {name for name, entry in TRAINERS.items() if "VGG19" in name or entry.module.endswith("coarse_to_fine")}


@pytest.fixture(scope="module")
def stock_costs(_prepared: Dataset) -> dict[str, Cost]:
    """By configuration."""
    return {each: cost_of_step(nnUNetTrainer, *read(_prepared, each)) for each in ("2d", "3d_fullres")}


@pytest.mark.parametrize("name", [STOCK, *TRAINERS])
def test_the_peak_is_that_of_real_tensors(
    dataset: Dataset, stock_costs: dict[str, Cost], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    use_narrow(monkeypatch)
    narrow(functools.partial(monkeypatch.setattr, raising=False))
    configuration = "2d" if name in IN_2D else "3d_fullres"
    trainer_class, plans = find_trainer(name), read(dataset, configuration)
    own = cost_of_step(trainer_class, *plans)
    in_full_precision = memory_of_step(trainer_class, *plans, half_precision=False)
    with without_data(trainer_class, half_precision=False):
        step = Step(trainer_class, *plans)
        step.run()
    assert in_full_precision == pytest.approx(step.memory.peak, rel=0.03)
    assert own.memory < in_full_precision
    assert own.parameters == step.parameters() > 0
    assert own.batch_size == 2
    if name not in IN_2D:  # which have few channels here
        stock = stock_costs[configuration]
        assert own.memory >= stock.memory
        assert own.flops >= stock.flops


class nnUNetTrainerAsks(nnUNetTrainer):
    def train_step(self, batch: dict) -> dict:
        return {"loss": batch["data"].nonzero().sum()}


def test_a_step_that_depends_on_values_is_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match=r"nnUNetTrainerAsks cannot be simulated on 2d \(DynamicOutputShape"):
        cost_of_step(nnUNetTrainerAsks, *read(dataset, "2d"))
    assert torch.ones(2).numpy().sum() == 2  # all is as it was
