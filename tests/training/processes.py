"""A trainer in two processes on the CPU, as nnU-Net's -num_gpus 2 runs it on two devices."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from tests.conftest import Dataset


def in_two_processes(
    make: Callable[[Dataset], Any], train: Callable[[Any, int], dict[str, Any]], dataset: Dataset, folder: Path
) -> list[dict[str, Any]]:
    """What ``train(trainer, rank)`` returned in each; both functions must be of a module.

    ``make`` may make several trainers, a list: then what it returned for each of them.
    """
    folder.mkdir()
    mp.spawn(_run, args=(make, train, dataset, str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(2)]


def _run(rank: int, make: Callable, train: Callable, dataset: Dataset, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **dataset.environment()}
    # Before there is a process group, with which nnU-Net takes a GPU for granted.
    made = make(dataset)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = []
    for trainer in made if isinstance(made, list) else [made]:
        torch.manual_seed(rank)  # other weights at the start: rank 0's must win
        trainer.initialize()
        trainer.is_ddp = True
        trainer.local_rank = rank
        trainer.network = DistributedDataParallel(trainer.network)
        trainer.loss = trainer._build_loss()
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        results.append(train(trainer, rank))
    torch.save(results if isinstance(made, list) else results[0], f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort a process that is torn down in the usual way
