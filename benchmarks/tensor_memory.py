"""Peak memory of the tensors of a training step, against stock nnU-Net, without a GPU and without the memory itself.

    python benchmarks/tensor_memory.py -tr nnUNetTrainerSDNet nnUNetTrainerMLL ... --classes 14 --patch-size 128 128 128

The step runs on fake tensors (PyTorch's FakeTensorMode), which have sizes but no contents, with a plan of nnU-Net's
usual features, in mixed precision. Counted is what lives at a time in storages of tensors: weights, gradients,
activations, what losses keep. Buffers inside of an operation (cuDNN's workspaces), the allocator's rounding and the
state of optimisers are not. Needs no dataset.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from nnunet_ext.training.cost.measure import TensorMemory

STOCK = "nnUNetTrainer"
DATASET = "Dataset999_Memory"
FEATURES = (32, 64, 128, 256, 320, 320)


def make_trainer(name: str, patch_size: Sequence[int], classes: int, batch_size: int) -> Any:
    """An initialised trainer on a plan of nnU-Net's usual features."""
    from nnunet_ext.losses import slabs
    from nnunet_ext.plugin.lookup import find_trainer

    slabs._CPU_VOXELS = slabs._DEVICE_VOXELS  # as on a GPU
    stages = len(FEATURES)
    architecture = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(FEATURES),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * stages,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * (stages - 1),
            "n_conv_per_stage": [2] * stages,
            "n_conv_per_stage_decoder": [2] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    configuration = {
        "data_identifier": "memory_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": batch_size,
        "patch_size": list(patch_size),
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": architecture,
    }
    plans = {
        "dataset_name": DATASET,
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "continue_training": False,
        "configurations": {"3d_fullres": configuration},
    }
    labels = {"background": 0, **{f"organ {i}": i for i in range(1, classes)}}
    dataset = {"labels": labels, "channel_names": {"0": "CT"}, "numTraining": 1, "file_ending": ".nii.gz"}
    trainer = find_trainer(name)(plans, "3d_fullres", 0, dataset, torch.device("cpu"))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    return trainer


def make_batch(trainer: Any) -> dict[str, Any]:
    """Image and targets, distance maps or unlabelled samples where the trainer wants them."""
    patch, scales = trainer.configuration_manager.patch_size, trainer._get_deep_supervision_scales()
    unlabelled = getattr(trainer, "unlabelled_batch_size", 0)
    labelled = trainer.batch_size - unlabelled
    shapes = [[round(n * s) for n, s in zip(patch, scale, strict=True)] for scale in scales]
    target = [torch.zeros((labelled, 1, *shape), dtype=torch.int16) for shape in shapes]
    classes = trainer.label_manager.num_segmentation_heads
    if getattr(getattr(trainer, "options", None), "boundary_weight", 0):
        target.append(torch.zeros((labelled, classes - 1, *patch), dtype=torch.float16))
    batch = {"data": torch.zeros(labelled, 1, *patch), "target": target, "keys": [""] * labelled}
    if unlabelled:
        batch["unlabelled"] = torch.zeros(unlabelled, 1, *patch)
    return batch


def peak_of_step(name: str, patch_size: Sequence[int], classes: int, batch_size: int = 2) -> int:
    """Bytes at the peak of a training step in the last epoch, where all terms of the loss are on."""
    trainer = make_trainer(name, patch_size, classes, batch_size)
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.autocast = lambda: torch.autocast("cpu", torch.bfloat16)
    trainer.step_output = lambda loss, terms: {}  # there are no values to fetch
    helpers = getattr(trainer, "auxiliary", {}).values()
    for optimizer in (trainer.optimizer, *(helper.optimizer for helper in helpers)):
        optimizer.step = lambda *_, **__: None  # which works in place, and knows the tensors that have contents
    memory = TensorMemory()
    with FakeTensorMode() as fake:
        for network in (trainer.network, *(helper.module for helper in helpers)):
            for module in network.modules():
                for owned in (module._parameters, module._buffers):
                    owned |= {key: fake.from_tensor(value) for key, value in owned.items() if value is not None}
            for tensor in (*network.parameters(), *network.buffers()):
                memory.add(tensor)
        batch = make_batch(trainer)
        tree_map_only(torch.Tensor, memory.add, batch)
        with memory:
            _step(trainer, batch)
        return memory.peak


def _step(trainer: Any, batch: dict[str, Any]) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    if type(trainer).train_step is not nnUNetTrainer.train_step:
        trainer.train_step(batch)
        return
    # The stock step ends with the loss on the host.
    trainer.optimizer.zero_grad(set_to_none=True)
    with trainer.autocast():
        loss = trainer.loss(trainer.network(batch["data"]), batch["target"])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), 12)


def main() -> None:
    """Print, and write with ``-o``, the peaks and their ratios to that of stock nnU-Net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tr", "--trainers", nargs="+", required=True)
    parser.add_argument("--patch-size", nargs=3, type=int, default=[128, 128, 128])
    parser.add_argument("--classes", type=int, default=14, help="background included")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:  # nnU-Net wants its folders
        os.environ |= dict.fromkeys(("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"), folder)
        preprocessed = Path(folder, DATASET, "memory_3d_fullres")
        preprocessed.mkdir(parents=True)
        (preprocessed / "case.b2nd").touch()  # by which nnU-Net knows its loader
        peaks = {
            name: peak_of_step(name, arguments.patch_size, arguments.classes, arguments.batch_size)
            for name in (STOCK, *arguments.trainers)
        }
    result = {
        "patch_size": arguments.patch_size,
        "classes": arguments.classes,
        "batch_size": arguments.batch_size,
        "trainers": {
            name: {"GB": round(peak / 1e9, 2), "ratio": round(peak / peaks[STOCK], 2)} for name, peak in peaks.items()
        },
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
