"""Two processes that train the two networks of SD-Net on different halves of a batch."""

import torch

from tests.conftest import Dataset
from tests.training.building import build, random_batch
from tests.training.processes import in_two_processes

NAME = "nnUNetTrainerSDNet_4epochs_3iters"


def _batch(trainer, rank):
    """Of one labelled and one unlabelled sample, others in each process."""
    batch = random_batch(trainer, seed=rank)
    generator = torch.Generator().manual_seed(10 + rank)
    return {
        "data": batch["data"][:1],
        "target": [t[:1] for t in batch["target"]],
        "unlabelled": torch.randn(batch["data"][:1].shape, generator=generator),
    }


def _make(dataset: Dataset):
    return build(dataset, NAME, unlabelled_start=0.0, difference_start=0.0)


def _train(trainer, rank: int):
    assert trainer.network.module is trainer.dual
    terms = [trainer.train_step(_batch(trainer, 2 * step + rank)) for step in range(2)]
    return {
        "weights": [network.state_dict() for network in trainer.networks()],
        "teacher": [(each["first teaches"], each["Dice loss: first"], each["Dice loss: second"]) for each in terms],
        "basic": [each["Dice + CE: first"] for each in terms],
    }


def test_two_processes_keep_the_same_networks_and_the_same_teacher(unlabelled_dataset, tmp_path):
    ranks = in_two_processes(_make, _train, unlabelled_dataset, tmp_path / "ranks")
    assert ranks[0]["teacher"] == ranks[1]["teacher"]
    assert ranks[0]["basic"] != ranks[1]["basic"]  # their samples differ
    for mine, theirs in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), name
