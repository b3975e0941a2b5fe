"""Coarse-to-fine networks and the multi-level structural network, in every setting nnU-Net has."""

import numpy as np
import pytest
import torch
from tests.trainers.building import build

from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerCoarseToFine
from nnunet_ext.training.imagenet_weights import RESNET18
from tests.trainers import building

TWO, MLN, WHOLE = "nnUNetTrainerCoarseToFine", "nnUNetTrainerMLN", "nnUNetTrainerMLNNoCoarse"
NO_PIXEL, NO_GUIDANCE = "nnUNetTrainerMLNNoPixel", "nnUNetTrainerMLNNoGuidance"
SETTINGS = {**building.SETTINGS, "cascade": {"configuration": "3d_cascade_fullres", "change_plans": building.cascade}}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few channels, small boxes, random weights."""
    narrow(monkeypatch.setattr)
    monkeypatch.setenv(RESNET18.variable, "random")


def narrow(setattr_):
    for option in ("coarse_features", "fine_features"):
        setattr_(nnUNetTrainerCoarseToFine, option, (4, 4, 8, 8))
    for option, value in (("channels", 8), ("margin", 2), ("multiple", 4), ("rates", (2, 3))):
        setattr_(nnUNetTrainerCoarseToFine, option, value)


def batch_of(trainer, seed=0):
    """A batch of two with a box of each class, and its distance maps, as the loader delivers them."""
    generator = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    manager = trainer.label_manager
    labels = torch.zeros((2, 1, *patch), dtype=torch.int16)
    labels[0, ..., 4:14, 5:17] = 1
    labels[1, ..., 8:20, 10:20] = 1
    labels[..., 9:12, 11:14] = 2
    if manager.has_ignore_label:
        labels[..., :3, :] = manager.all_labels[-1] + 1
    images = torch.randn(2, trainer.num_input_channels, *patch, generator=generator) + labels
    target = labels
    if manager.has_regions:
        regions = [*manager.foreground_regions, *([manager.ignore_label] if manager.has_ignore_label else [])]
        members = [torch.tensor(r if isinstance(r, (tuple, list)) else [r]) for r in regions]
        target = torch.cat([torch.isin(labels, m.short()) for m in members], 1)
    if trainer.boundary_weight:
        transform = trainer.get_training_transforms(patch, (0, 0), None, (0,), do_dummy_2d_data_aug=False).transforms[
            -1
        ]
        maps = [transform(image=images[i], segmentation=target[i])["segmentation"][1] for i in range(2)]
        target = [target, torch.stack(maps)]
    return {"data": images, "target": target, "keys": ["a", "b"]}


def prepared(dataset, name, epoch=90, **options):
    """A trainer in an epoch of a run of a hundred."""
    trainer = build(dataset, name, **options)
    trainer.num_epochs, trainer.current_epoch = 100, epoch
    trainer.initialize()
    trainer.network.train()
    if hasattr(trainer, "is_guided"):
        trainer.slice_network.set_guided(trainer.is_guided)
    return trainer


@pytest.mark.parametrize("name", [TWO, MLN])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_batch_is_learned_by_heart(dataset, name, setting):
    trainer = prepared(dataset, name, **SETTINGS[setting])
    batch = batch_of(trainer)
    steps = [trainer.train_step(batch) for _ in range(8)]
    assert set(steps[0]) == {"loss", "coarse", "region", "boundary", "pixel", *(["fusion"] if name == MLN else [])}
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert steps[-1]["coarse"] + steps[-1]["region"] < steps[0]["coarse"] + steps[0]["region"] - 0.05
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step({**batch, "target": batch["target"][0]})["loss"])
    assert len(trainer.slice_network.rounds_used) == 2
