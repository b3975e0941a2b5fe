"""VGG-19 with few channels."""

import functools

import torch

from nnunet_ext.networks.vgg19_unet import VGG19UNet
from nnunet_ext.trainers import cascaded

NARROW = (4, 4, 8, 8, 8)


def use_narrow(monkeypatch):
    """Let the trainers build it, from random weights."""
    monkeypatch.setattr(cascaded, "VGG19UNet", functools.partial(VGG19UNet, features=NARROW))
    monkeypatch.setenv("NNUNET_EXT_VGG19", "random")


def weights_of(features, seed):
    """A file's contents of weights of a VGG-19 with these channels."""
    generator = torch.Generator().manual_seed(seed)
    weights, position, channels = {}, 0, 3
    for number, out in zip((2, 2, 4, 4, 4), features, strict=True):
        for _ in range(number):
            weights[f"features.{position}.weight"] = torch.randn(out, channels, 3, 3, generator=generator)
            weights[f"features.{position}.bias"] = torch.randn(out, generator=generator)
            position, channels = position + 2, out
        position += 1
    return weights
