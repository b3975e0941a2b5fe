"""Peak memory and arithmetic of a training step, predicted, and the prediction beside what PyTorch allocates on a CPU.

    python benchmarks/tensor_memory.py -o benchmarks/results/tensor_memory.json    # half an hour

Predicted, as by ``nnunet-ext cost``: plans as nnU-Net makes them for images of one spacing, 14 classes, mixed precision
as on CUDA. Needs no dataset. ``start seconds`` is the CPU time that the sentence at the start of training takes, in a
new process.

Compared: a smaller patch in float32, as nnU-Net trains on a CPU. The same step runs on tensors without and with
contents; the peak of the latter is that of PyTorch's allocator, from the profiler, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.cost.measure import Step, cost_of_step, memory_of_step
from nnunet_ext.training.cost.simulation import without_data

STOCK = "nnUNetTrainer"
MACHINE = "two-core x86-64 CPU"
CLASSES = 14
# Patch and batch of nnU-Net's plans for 8 GB, and smaller ones that a CPU has time and memory for.
PREDICTED = {"3d_fullres": ((128, 128, 128), 2), "2d": ((512, 512), 12)}
COMPARED = {"3d_fullres": ((32, 64, 64), 2), "2d": ((128, 128), 4)}


def plans_of(patch_size: Sequence[int], batch_size: int) -> dict[str, Any]:
    """Plans of one configuration, with nnU-Net's usual depth, kernels and features."""
    dimension = len(patch_size)
    _, strides, kernels, _, _ = get_pool_and_conv_props([1.0] * dimension, patch_size, 4, 999999)
    stages, most = len(strides), 320 if dimension == 3 else 512
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": [min(32 * 2**stage, most) for stage in range(stages)],
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": [list(kernel) for kernel in kernels],
            "strides": [list(stride) for stride in strides],
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "memory",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch_size),
        "spacing": [1.0] * dimension,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": dimension == 2,
        "architecture": architecture,
    }
    return {
        "dataset_name": "Dataset999_Memory",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "configurations": {"2d" if dimension == 2 else "3d_fullres": configuration},
    }


def dataset_of(classes: int) -> dict[str, Any]:
    """A dataset.json; the background is one of the classes."""
    labels = {"background": 0, **{f"organ {i}": i for i in range(1, classes)}}
    return {"labels": labels, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}


def allocated(name: str, configuration: str) -> int:
    """Bytes of PyTorch's CPU allocator at the peak of a real step."""
    trainer_class = find_trainer(name)
    activities = [torch.profiler.ProfilerActivity.CPU]
    with without_data(trainer_class, half_precision=False), tempfile.TemporaryDirectory() as folder:
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            step = Step(trainer_class, plans_of(*COMPARED[configuration]), configuration, dataset_of(CLASSES))
            with torch.profiler.record_function("the step"):
                step.run()
        trace = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    (whole,) = [event for event in events if event["name"] == "the step" and event["cat"] == "user_annotation"]
    allocations = [event for event in events if event["name"] == "[memory]" and event["ts"] >= whole["ts"]]
    return max(event["args"]["Total Allocated"] for event in allocations)


def seconds_at_start(name: str, configuration: str) -> float:
    """CPU time of a prediction in a new process, which has imported what a trainer has."""
    trainer_class = find_trainer(name)
    begin = time.process_time()
    memory_of_step(trainer_class, plans_of(*PREDICTED[configuration]), configuration, dataset_of(CLASSES))
    return time.process_time() - begin


def in_a_new_process(function: Any, *arguments: Any) -> Any:
    """Its result: the profiler counts what an earlier step has left behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def predict(names: Sequence[str], configuration: str) -> dict[str, Any]:
    """Costs by trainer, those that have the configuration."""
    patch_size, batch_size = PREDICTED[configuration]
    plans, dataset, found = plans_of(patch_size, batch_size), dataset_of(CLASSES), {}
    stock = cost_of_step(find_trainer(STOCK), plans, configuration, dataset)
    for name in names:
        try:
            cost = cost_of_step(find_trainer(name), plans, configuration, dataset)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        found[name] = {
            "GB": round(cost.memory / 1e9, 2),
            "ratio": _rounded(cost.memory / stock.memory),
            "TFLOPs": round(cost.flops / 1e12, 2),
            "TFLOPs ratio": _rounded(cost.flops / stock.flops),
            "million parameters": round(cost.parameters / 1e6, 1),
            "start seconds": round(in_a_new_process(seconds_at_start, name, configuration), 1),
        }
        print(configuration, name, found[name], flush=True)
    return {"patch_size": patch_size, "batch_size": batch_size, "classes": CLASSES, "trainers": found}


def compare(names: Sequence[str], configuration: str) -> dict[str, Any]:
    """Predicted and allocated peaks by trainer."""
    patch_size, batch_size = COMPARED[configuration]
    plans, found = plans_of(patch_size, batch_size), {}
    for name in names:
        try:
            predicted = memory_of_step(find_trainer(name), plans, configuration, dataset_of(CLASSES), False)
        except UserError as error:
            print(f"{name}: {error}")
            continue
        peak = in_a_new_process(allocated, name, configuration)
        found[name] = {
            "predicted GB": round(predicted / 1e9, 4),
            "allocated GB": round(peak / 1e9, 4),
            "ratio": round(predicted / peak, 3),
        }
        print(configuration, name, found[name], flush=True)
    return {"patch_size": patch_size, "batch_size": batch_size, "classes": CLASSES, "trainers": found}


def _rounded(ratio: float) -> float:
    """Three digits, and not more than two behind the point."""
    return round(ratio, 2 - max(0, math.floor(math.log10(ratio))))


def main() -> None:
    """Print, and write with ``-o``, predictions and comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", "--trainers", nargs="+", default=[STOCK, *TRAINERS], help="default: all")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    result = {
        "machine": MACHINE,
        "torch": torch.__version__,
        "predicted": {each: predict(arguments.trainers, each) for each in PREDICTED},
        "compared with CPU allocations": {each: compare(arguments.trainers, each) for each in COMPARED},
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
