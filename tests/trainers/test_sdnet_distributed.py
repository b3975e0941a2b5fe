"""Two processes that train the two networks of SD-Net on different halves of a batch."""

import os

import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import Dataset
from tests.trainers.building import build, random_batch

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


def _train(rank: int, folder: str, dataset: Dataset) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **dataset.environment()}
    # Before there is a process group, with which nnU-Net takes a GPU for granted.
    trainer = build(dataset, NAME, unlabelled_start=0.0)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other weights at the start: rank 0's must win
    trainer.initialize()
    trainer.is_ddp = True
    trainer.local_rank = rank
    first = trainer.network
    trainer.network = DistributedDataParallel(first)
    trainer.loss = trainer._build_loss()
    trainer.set_deep_supervision_enabled(True)
    assert trainer.networks() == (first, trainer.second.module)
    terms = [trainer.train_step(_batch(trainer, 2 * step + rank)) for step in range(2)]
    state = {
        "weights": [network.state_dict() for network in trainer.networks()],
        "teacher": [(each["first teaches"], each["Dice loss: first"], each["Dice loss: second"]) for each in terms],
        "basic": [each["Dice + CE: first"] for each in terms],
    }
    torch.save(state, f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort a process that is torn down in the usual way


def test_two_processes_keep_the_same_networks_and_the_same_teacher(unlabelled_dataset, tmp_path):
    folder = tmp_path / "ranks"
    folder.mkdir()
    mp.spawn(_train, args=(str(folder), unlabelled_dataset), nprocs=2)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]
    assert ranks[0]["teacher"] == ranks[1]["teacher"]
    assert ranks[0]["basic"] != ranks[1]["basic"]  # their samples differ
    for mine, theirs in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), name
