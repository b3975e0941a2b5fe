"""Runs of SD-Net for its tests."""

import numpy as np
import torch

from tests.training.building import build

SDNET = "nnUNetTrainerSDNet_4epochs_3iters"
LABELLED = "nnUNetTrainerSDNetLabelled_4epochs_3iters"


def seed(value=0):
    np.random.seed(value)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(value)


def ready(dataset, name=SDNET, **options):
    """Two networks whose predictions differ, and an unlabelled sample."""
    trainer = build(dataset, name, **options)
    generator = initialize_apart(trainer)
    shape = (1, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    return trainer, torch.randn(shape, generator=generator)


def initialize_apart(trainer):
    """Let the predictions of the two networks differ; returns the random numbers that go on."""
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for network in trainer.networks():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return generator


def halves(batch, unlabelled):
    """A batch of which only the first sample is labelled."""
    targets = batch["target"]
    first = [t[:1] for t in targets] if isinstance(targets, list) else targets[:1]
    return {"data": batch["data"][:1], "target": first, "keys": batch["keys"][:1], "unlabelled": unlabelled}


def first_output(outputs):
    return outputs[0] if isinstance(outputs, list) else outputs


def raw_images(folder, monkeypatch, cases):
    """Let nnUNet_raw be a folder with these unlabelled images."""
    images = folder / "Dataset090_PhantomAbdomen" / "imagesUn"
    images.mkdir(parents=True)
    for case in cases:
        (images / f"{case}_0000.nii.gz").touch()
    (images / "._one_0000.nii.gz").touch()
    monkeypatch.setattr("nnunetv2.paths.nnUNet_raw", str(folder))
