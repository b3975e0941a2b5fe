"""Make a trainer on the shared dataset without its data loaders."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.training.base import ExtendedTrainer
from nnunet_ext.training.cost.measure import example_batch
from tests.conftest import PLANS, Dataset

REGIONS = {"background": 0, "both": [1, 2], "spleen": 2}
# What every trainer has to work with, as options of build.
SETTINGS: dict[str, dict[str, Any]] = {
    "3d": {},
    "2d": {"configuration": "2d"},
    "ignore label": {"labels": {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}},
    "regions": {"labels": REGIONS},
    "regions with ignore label": {"labels": {**REGIONS, "ignore": 3}},
}


def build(
    dataset: Dataset,
    name: str,
    configuration: str = "3d_fullres",
    change_plans: Callable[[dict], Any] | None = None,
    labels: dict | None = None,
    trainer: type | None = None,
    device: str = "cpu",
    **attributes: Any,
):
    """A trainer, not yet initialised; ``attributes`` are set on the instance, ``labels`` replace the dataset's."""
    plans = json.loads((dataset.preprocessed / f"{PLANS}.json").read_text())
    plans["continue_training"] = False
    if change_plans is not None:
        change_plans(plans)
    dataset_json = json.loads((dataset.preprocessed / "dataset.json").read_text())
    if labels is not None:
        dataset_json = copy.deepcopy(dataset_json) | {"labels": labels}
        if any(isinstance(value, list) for value in labels.values()):
            dataset_json["regions_class_order"] = list(range(1, len(labels) - ("ignore" in labels)))
    torch.manual_seed(0)
    made = (trainer or find_trainer(name))(plans, configuration, 0, dataset_json, torch.device(device))
    for attribute, value in attributes.items():
        setattr(made, attribute, value)
    if isinstance(made, ExtendedTrainer):  # as it does at the beginning of initialize
        made.options = made._chosen_options()
    return made


def trained_a_step(dataset: Dataset, name: str, **options: Any):
    """A trainer after one step on random voxels; ``options`` as of :func:`build`."""
    trainer = build(dataset, name, **options)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    trainer.train_step(random_batch(trainer))
    return trainer


def cascade(plans: dict) -> None:
    """Plans with the two stages of the cascade, both as 3d_fullres."""
    configurations = plans["configurations"]
    configurations["3d_lowres"] = {"inherits_from": "3d_fullres", "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}


def residual(plans: dict) -> None:
    """Plans with a residual encoder."""
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")


def random_batch(trainer: Any, seed: int = 0) -> dict[str, Any]:
    """A batch as the loader gives it: image, and targets at the scales of the deep-supervision outputs."""
    generator = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    data = torch.randn(2, trainer.num_input_channels, *patch, generator=generator)
    manager = trainer.label_manager
    values = max(manager.all_labels) + 1
    if manager.has_ignore_label:
        values += 1
    scales = trainer._get_deep_supervision_scales() or [[1] * len(patch)]
    target = []
    for scale in scales:
        shape = [round(n * s) for n, s in zip(patch, scale, strict=True)]
        labels = torch.randint(0, values, (2, 1, *shape), generator=generator).short()
        if manager.has_regions:
            regions = [*manager.foreground_regions, *([manager.ignore_label] if manager.has_ignore_label else [])]
            members = [torch.tensor(r if isinstance(r, (tuple, list)) else [r]) for r in regions]
            labels = torch.cat([torch.isin(labels, m.short()) for m in members], 1)
        target.append(labels)
    return {"data": data, "target": target if trainer.enable_deep_supervision else target[0], "keys": ["a", "b"]}


def assert_loads_into_stock(dataset: Dataset, trainer: Any, filename: str) -> None:
    """A checkpoint of the trainer must load into the stock trainer, weight by weight."""
    trainer.save_checkpoint(filename)
    stock = build(dataset, "nnUNetTrainer_1epochs")
    stock.initialize()
    stock.load_checkpoint(filename)
    for (name, p), (stock_name, q) in zip(
        trainer.network.named_parameters(), stock.network.named_parameters(), strict=True
    ):
        assert name == stock_name
        assert torch.equal(p, q)


def run_epochs(trainer: Any, until: int) -> None:
    """Epochs of three training steps and one of validation, until epoch ``until``; without nnU-Net's slow plot."""
    trainer.logger.plot_progress_png = lambda folder: None
    trainer.on_train_start()
    for _ in range(trainer.current_epoch, until):
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        trainer.on_train_epoch_end([trainer.train_step(next(trainer.dataloader_train)) for _ in range(3)])
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val))])
        trainer.on_epoch_end()


def built_for_a_step(dataset: Dataset, name: str, configuration: str = "3d_fullres", **attributes: Any):
    """A trainer that needs no data of its own for :func:`full_batch`; not yet initialised."""
    trainer = build(dataset, name, configuration, **attributes)
    if isinstance(trainer, ExtendedTrainer):
        trainer.prepare_simulation()
    return trainer


def full_batch(trainer: Any, seed: int = 0) -> dict[str, Any]:
    """A random batch as the trainer's own loader gives it in the last epoch, to which the trainer is set."""
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.network.train()
    generator = torch.Generator().manual_seed(seed)
    labels = len(trainer.label_manager.all_labels)

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        return torch.randint(0, labels, tensor.shape, generator=generator).to(tensor.dtype)

    return tree_map_only(torch.Tensor, filled, example_batch(trainer))
