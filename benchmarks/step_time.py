"""Time and memory of a training iteration against stock nnU-Net: same plan, same batches, interleaved in one process.

    python benchmarks/step_time.py -d 4 -c 3d_fullres -p nnUNetPlans -tr nnUNetTrainerRefinedGAN ... -o FILE.json

nnU-Net's folders must be set and the dataset preprocessed. The trainers take their steps in turn, so that whatever
else slows the machine slows all of them; the ratio is that of the medians. Batches come from each trainer's own loader,
in this process, and what they cost one worker is measured apart: workers keep up as long as a step takes longer than
that divided by their number. With ``--patch-size`` and ``--classes``, batches are noise instead.
Peak memory is measured in a process of its own for each trainer: the peak of torch's allocator on cuda, of the whole
process on cpu.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

STOCK = "nnUNetTrainer"
BATCHES = 4


def build(arguments: argparse.Namespace, trainer: str) -> Any:
    """An initialised trainer in training mode."""
    from nnunetv2.run.run_training import get_trainer_from_args

    made = get_trainer_from_args(
        str(arguments.dataset), arguments.configuration, 0, trainer, arguments.plans, device=arguments.device
    )
    if arguments.batch_size:
        made.configuration_manager.configuration["batch_size"] = arguments.batch_size
    if arguments.patch_size:
        made.configuration_manager.configuration["patch_size"] = arguments.patch_size
    if arguments.classes:
        made.dataset_json["labels"] = {f"class {i}": i for i in range(arguments.classes + 1)} | {"background": 0}
        del made.dataset_json["labels"]["class 0"]
        made.label_manager = made.plans_manager.get_label_manager(made.dataset_json)
    made.initialize()
    made.set_deep_supervision_enabled(made.enable_deep_supervision)
    made.network.train()
    return made


def random_batches(trainer: Any) -> list[dict[str, Any]]:
    """Batches of noise with random labels, and distance maps or unlabelled samples where the trainer wants them."""
    generator = torch.Generator().manual_seed(0)
    patch = trainer.configuration_manager.patch_size
    scales = trainer._get_deep_supervision_scales()
    batches = []
    unlabelled = getattr(trainer, "unlabelled_batch_size", 0)
    labelled = trainer.batch_size - unlabelled
    for _ in range(BATCHES):
        data = torch.randn(labelled, trainer.num_input_channels, *patch, generator=generator)
        shapes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales]
        classes = trainer.label_manager.num_segmentation_heads
        target = [torch.randint(0, classes, (labelled, 1, *s), generator=generator).short() for s in shapes]
        if getattr(getattr(trainer, "options", None), "boundary_weight", 0):
            target.append(torch.randn(labelled, classes - 1, *patch, generator=generator).half())
        batches.append({"data": data, "target": target, "keys": [""] * labelled})
        if unlabelled:
            batches[-1]["unlabelled"] = torch.randn(unlabelled, *data.shape[1:], generator=generator)
    return batches


def loaded_batches(trainer: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """Batches of the trainer's own loader, and the seconds each cost this process."""
    os.environ["nnUNet_n_proc_DA"] = "0"
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    batches, seconds = [], []
    for _ in range(4 * BATCHES):
        start = time.process_time()
        batches.append(next(trainer.dataloader_train))
        seconds.append(time.process_time() - start)
    return batches[:BATCHES], seconds


def make_batches(arguments: argparse.Namespace, trainer: Any) -> tuple[list[dict[str, Any]], list[float]]:
    """Batches for a trainer, and what each cost to load."""
    if arguments.patch_size or arguments.classes:
        return random_batches(trainer), []
    return loaded_batches(trainer)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_time(arguments: argparse.Namespace) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of every step of every trainer, interleaved, and those of loading its batches."""
    trainers = {name: build(arguments, name) for name in (STOCK, *arguments.trainers)}
    if arguments.late:
        for trainer in trainers.values():
            trainer.current_epoch = trainer.num_epochs - 1
    batches, loading = {}, {}
    for name, trainer in trainers.items():
        batches[name], loading[name] = make_batches(arguments, trainer)
        if arguments.late and hasattr(trainer, "prepare_second_stage"):
            trainer.prepare_second_stage()
        if hasattr(trainer, "is_guided"):  # MLN's pixel branch and fusion
            trainer.slice_network.set_guided(trainer.is_guided)
    seconds: dict[str, list[float]] = {name: [] for name in trainers}
    for i in range(arguments.warm_up + arguments.steps):
        # Another order each time: the step after a large one finds other things in the caches.
        for name in np.random.default_rng(i).permutation(list(trainers)):
            batch = batches[name][i % BATCHES]
            synchronize(arguments.device)
            start = time.perf_counter()
            trainers[name].train_step(batch)
            synchronize(arguments.device)
            if i >= arguments.warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds, loading


def measure_memory(arguments: argparse.Namespace, trainer: str, connection: Any) -> None:
    """Peak memory in MiB of a few steps; runs in a process of its own."""
    torch.set_num_threads(arguments.threads)
    made = build(arguments, trainer)
    for batch in make_batches(arguments, made)[0][:3]:
        made.train_step(batch)
    if arguments.device.type == "cuda":
        connection.send(torch.cuda.max_memory_allocated() / 2**20)
    else:
        connection.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def peak_memory(arguments: argparse.Namespace, trainer: str) -> float:
    """Run :func:`measure_memory` and return its result."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure_memory, args=(arguments, trainer, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", dest="dataset", type=int, required=True)
    parser.add_argument("-c", dest="configuration", default="3d_fullres")
    parser.add_argument("-p", dest="plans", default="nnUNetPlans")
    parser.add_argument("-tr", dest="trainers", nargs="+", required=True)
    parser.add_argument("-device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--batch-size", type=int, help="instead of the plan's")
    parser.add_argument("--patch-size", type=int, nargs="+", help="instead of the plan's")
    parser.add_argument("--classes", type=int, help="foreground classes instead of the dataset's")
    parser.add_argument("--late", action="store_true", help="in the last epoch, when every term has its full weight")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--machine", required=True, help="said in the result")
    parser.add_argument("-o", dest="output", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    # Memory first: a child process starts with the peak of its parent, which is small as long as it has done nothing.
    memory = {name: peak_memory(arguments, name) for name in (STOCK, *arguments.trainers)}
    seconds, loading = measure_time(arguments)
    stock = float(np.median(seconds[STOCK]))
    result = {
        "machine": arguments.machine,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(arguments.device),
        "threads": arguments.threads,
        "configuration": arguments.configuration,
        "plans": arguments.plans,
        "batch_size": arguments.batch_size or "of the plan",
        "patch_size": arguments.patch_size or "of the plan",
        "classes": arguments.classes or "of the dataset",
        "last epoch": arguments.late,
        "steps": arguments.steps,
        "trainers": {
            name: {
                "median_seconds": round(float(np.median(values)), 4),
                "time_ratio": round(float(np.median(values)) / stock, 3),
                "time_ratio_quartiles": [
                    round(float(q), 3) for q in np.quantile(np.array(values) / np.array(seconds[STOCK]), (0.25, 0.75))
                ],
                "peak_mib": round(memory[name]),
                "memory_ratio": round(memory[name] / memory[STOCK], 3),
                "worker_seconds_per_batch": round(float(np.median(loading[name])), 4) if loading[name] else None,
            }
            for name, values in seconds.items()
        },
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
