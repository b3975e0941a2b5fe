"""Where the ImageNet weights of a network are."""

import pytest
import torch

from nnunet_ext.core.errors import UserError
from tests.training.building import build
from tests.training.narrow_vgg19 import NARROW, use_narrow, weights_of

VGG = "nnUNetTrainerCascadedVGG19"


@pytest.fixture
def narrow(monkeypatch):
    use_narrow(monkeypatch)


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
