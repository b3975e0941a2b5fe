"""Where the ImageNet weights of a network are."""

import functools

import pytest
import torch

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.vgg19_unet import VGG19UNet
from nnunet_ext.trainers import cascaded
from tests.training.building import build

NARROW = (4, 4, 8, 8, 8)
VGG = "nnUNetTrainerCascadedVGG19"


@pytest.fixture
def narrow(monkeypatch):
    """VGG-19 with few channels, from random weights."""
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


@pytest.mark.usefixtures("narrow")
def test_the_caches_of_torchvision_and_timm_are_looked_into(dataset, monkeypatch, tmp_path):
    monkeypatch.delenv("NNUNET_EXT_VGG19")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("nnunet_ext.training.imagenet_weights.try_to_load_from_cache", lambda *names: None)
    with pytest.raises(UserError, match=r"no ImageNet weights of VGG-19: .*IMAGENET1K_V1.*or to random to start"):
        build(dataset, VGG, "2d").initialize()

    timm = tmp_path / "model.safetensors"
    from safetensors.torch import save_file

    save_file(weights_of(NARROW, 1), timm)
    asked = []
    monkeypatch.setattr(
        "nnunet_ext.training.imagenet_weights.try_to_load_from_cache",
        lambda *names: (asked.append(names), str(timm))[1],
    )
    trainer = build(dataset, VGG, "2d")
    trainer.initialize()
    assert asked[-1] == ("timm/vgg19.tv_in1k", "model.safetensors")
    expected = weights_of(NARROW, 1)["features.0.bias"]
    assert torch.equal(trainer.network.first.encoder.blocks[0][0].bias, expected)

    (tmp_path / "checkpoints").mkdir()
    torch.save(weights_of(NARROW, 2), tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth")
    trainer = build(dataset, VGG, "2d")
    trainer.initialize()
    expected = weights_of(NARROW, 2)["features.0.bias"]
    assert torch.equal(trainer.network.first.encoder.blocks[0][0].bias, expected)
