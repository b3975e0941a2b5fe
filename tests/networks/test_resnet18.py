"""ResNet-18 with atrous rates, and its ImageNet weights."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from nnunet_ext.networks.resnet18 import ResNet18

NARROW = (4, 4, 8, 8)


def test_without_atrous_rates_it_is_torchvision_s_resnet18():
    torch.manual_seed(0)
    reference = resnet18().eval()
    own = ResNet18([0, 1, 2], stem_stride=2, atrous=False).eval()
    own.load_imagenet(reference.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        early, deep = own(images)
        x = reference.layer1(reference.maxpool(reference.relu(reference.bn1(reference.conv1(images)))))
        assert torch.allclose(early, x)
        assert torch.allclose(deep, reference.layer4(reference.layer3(reference.layer2(x))), atol=1e-5)


@pytest.mark.parametrize(("stem_stride", "expected"), [(1, (2, 4)), (2, (4, 8))])
def test_rates_take_the_place_of_strides(stem_stride, expected):
    network = ResNet18([0, 1, 2], stem_stride, features=NARROW)
    early, deep = network(torch.randn(2, 3, 32, 48))
    assert [32 // early.shape[2], 32 // deep.shape[2]] == list(expected)
    rates = [[c.dilation[0] for c in layer.modules() if isinstance(c, nn.Conv2d) and c.kernel_size == (3, 3)]
             for layer in (network.layer1, network.layer2, network.layer3, network.layer4)]  # fmt: skip
    assert rates == [[1] * 4, [1] * 4, [1, 2, 2, 2], [2, 4, 4, 4]]


def test_channels_that_share_a_colour_share_its_filters():
    weights = resnet18().state_dict()
    own = ResNet18([0, 0, 1, 1, 2, 2])
    own.load_imagenet(weights)
    red, green, blue = weights["conv1.weight"].unbind(1)
    expected = torch.stack([red, red, green, green, blue, blue], 1) / 2
    assert torch.equal(own.conv1.weight, expected)
    assert torch.equal(own.layer4[1].bn2.weight, weights["layer4.1.bn2.weight"])
    with pytest.raises(ValueError, match=r"conv1.weight should have the shape \[64, 3, 7, 7\], but has None"):
        own.load_imagenet({})
