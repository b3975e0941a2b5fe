"""Two processes with different samples keep the same networks, helpers and duals: MLL, RefinedGAN and PaNN; all."""

import functools
import os

import torch

from nnunet_ext.losses.prior import DualVariables
from nnunet_ext.networks.vgg19_unet import VGG19UNet
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.trainers import cascaded
from nnunet_ext.training.teacher import Teacher
from tests.conftest import Dataset, slow
from tests.trainers.test_coarse_to_fine import narrow
from tests.trainers.test_multi_level import batch_with_distances
from tests.trainers.test_pann import made, mixed_batch
from tests.training.building import build, built_for_a_step, full_batch, random_batch
from tests.training.narrow_vgg19 import NARROW
from tests.training.processes import in_two_processes

PRIOR = torch.tensor([0.7, 0.25, 0.05])
MLL, GAN, PANN = "nnUNetTrainerMLL_20epochs_2iters", "nnUNetTrainerRefinedGAN", "nnUNetTrainerPaNN_18epochs_2iters"


def _make(dataset: Dataset):
    return [build(dataset, MLL), build(dataset, GAN), made(dataset, PANN)]


def _train(trainer, rank: int):
    """Two steps with all terms on; in the second one the first rank has no partial sample."""
    trainer.current_epoch = 15
    name = type(trainer).__name__
    extra = {}
    if name == PANN:
        trainer._teacher = Teacher(trainer.network)
        trainer._duals = DualVariables(PRIOR)
    steps = []
    for step in range(2):
        batch = batch_with_distances(trainer) if name == MLL else random_batch(trainer)
        batch["data"] = batch["data"] + rank + 2 * step
        if name == PANN:
            partial, full = mixed_batch(trainer)["keys"]
            batch["keys"] = [full, full] if step and not rank else [partial, full]
        steps.append(trainer.train_step(batch))
    if name == PANN:
        extra = trainer._duals.state_dict()
    if name == MLL:
        extra = {"points": trainer._point_generator().get_state()}
    networks = [trainer.network.module, *(helper.module for helper in trainer.auxiliary.values())]
    return {"steps": steps, "weights": [network.state_dict() for network in networks], **extra}


def test_two_processes_keep_the_same_networks_and_duals(dataset, tmp_path):
    ranks = in_two_processes(_make, _train, dataset, tmp_path / "ranks")
    for first, second in zip(*ranks, strict=True):
        assert [step["loss"] for step in first["steps"]] != [step["loss"] for step in second["steps"]]
        for mine, theirs in zip(first["weights"], second["weights"], strict=True):
            for name, value in mine.items():
                assert torch.isfinite(value).all(), name
                assert torch.equal(value, theirs[name]), name

    points = [rank[0]["points"] for rank in ranks]
    assert not torch.equal(*points)  # others on each device

    first, second = (rank[2] for rank in ranks)
    duals = DualVariables(PRIOR)
    for seen in ((first["steps"][0], second["steps"][0]), (second["steps"][1],)):  # those with partial samples
        means = [torch.tensor([s[f"{organ}: predicted"] for organ in ("liver", "spleen")]) for s in seen]
        mean = torch.stack(means).mean(0)
        duals.ascend(torch.cat([1 - mean.sum()[None], mean]), 2 * 0.01)
    for rank in (first, second):
        assert torch.allclose(rank["nu"], duals.nu, rtol=1e-5)
        assert torch.allclose(rank["mu"], duals.mu, rtol=1e-5)


IN_2D = [name for name, entry in TRAINERS.items() if "VGG19" in name or entry.module.endswith("coarse_to_fine")]


def _make_all(dataset: Dataset):
    narrow(setattr)
    cascaded.VGG19UNet = functools.partial(VGG19UNet, features=NARROW)  # in a process of its own
    os.environ["NNUNET_EXT_VGG19"] = os.environ["NNUNET_EXT_RESNET18"] = "random"
    return [built_for_a_step(dataset, name, "2d" if name in IN_2D else "3d_fullres") for name in TRAINERS]


def _train_all(trainer, rank: int):
    losses = [trainer.train_step(full_batch(trainer, 2 * step + rank))["loss"] for step in range(2)]
    networks = [trainer.network.module, *(helper.module for helper in trainer.auxiliary.values())]
    return {"losses": losses, "weights": [dict(network.named_parameters()) for network in networks]}


@slow
def test_two_processes_keep_the_same_networks_of_all_trainers(dataset, tmp_path):
    ranks = in_two_processes(_make_all, _train_all, dataset, tmp_path / "ranks")
    for trainer, first, second in zip(TRAINERS, *ranks, strict=True):
        assert first["losses"] != second["losses"], trainer
        for mine, theirs in zip(first["weights"], second["weights"], strict=True):
            for name, value in mine.items():
                assert torch.isfinite(value).all(), (trainer, name)
                assert torch.equal(value, theirs[name]), (trainer, name)
