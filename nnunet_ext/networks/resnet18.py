"""ResNet-18 without its classifier, with atrous blocks, for any number of input channels.

Source: He et al. 2016; the changes: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), sections 2.3 and 4.2, Table 2.
The residual blocks are timm's; the layers have torchvision's names, so that the weights of both load.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from timm.models.resnet import BasicBlock
from torch import nn

FEATURES = (64, 128, 256, 512)
COLOURS = 3


class ResNet18(nn.Module):
    """The four blocks of ResNet-18.

    Args:
        colours: for each input channel, which colour of ImageNet it stands for: red (0), green (1) or blue (2).
        stem_stride: stride of the first convolution; 1 in the paper's fine network, 2 in its coarse one.
        atrous: whether blocks 3 and 4 have atrous rates 2 and 4 instead of strides, as in the paper. The output is
            then 4 times coarser than the image with ``stem_stride`` 1, and 8 times with 2.
        features: channels of each block; the first convolution has those of block 1.
    """

    def __init__(
        self, colours: Sequence[int], stem_stride: int = 1, atrous: bool = True, features: Sequence[int] = FEATURES
    ) -> None:
        super().__init__()
        self.colours = list(colours)
        self.conv1 = nn.Conv2d(len(self.colours), features[0], 7, stem_stride, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(features[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        rates, strides = ((1, 1, 2, 4), (1, 2, 1, 1)) if atrous else ((1, 1, 1, 1), (1, 2, 2, 2))
        layers = []
        channels, before = features[0], 1
        for block_features, stride, rate in zip(features, strides, rates, strict=True):
            layers.append(_layer(channels, block_features, stride, rate, before))
            channels, before = block_features, rate
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of block 1 and of block 4 for images (B, channels, H, W)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        early = self.layer1(x)
        return early, self.layer4(self.layer3(self.layer2(early)))

    def load_imagenet(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a classifier, named as torchvision and timm do.

        Channels that share a colour share its filters in equal parts, so that the outputs keep their size.

        Raises:
            ValueError: a layer is not among them, or has another shape.
        """
        taken = {}
        for name, own in self.state_dict().items():
            if name.endswith("num_batches_tracked"):  # older files have none
                taken[name] = own
                continue
            shape = list(own.shape)
            if name == "conv1.weight":
                shape[1] = COLOURS
            found = list(weights[name].shape) if name in weights else None
            if found != shape:
                raise ValueError(f"{name} should have the shape {shape}, but has {found}")
            taken[name] = weights[name]
        shares = torch.tensor([1 / self.colours.count(colour) for colour in self.colours])
        taken["conv1.weight"] = taken["conv1.weight"][:, self.colours] * shares.view(1, -1, 1, 1)
        self.load_state_dict(taken)


def _layer(channels: int, features: int, stride: int, rate: int, rate_before: int) -> nn.Sequential:
    """Two residual blocks; the first convolution of an atrous layer still has the rate before, as in DeepLab."""
    shortcut = None
    if stride != 1 or channels != features:
        shortcut = nn.Sequential(nn.Conv2d(channels, features, 1, stride, bias=False), nn.BatchNorm2d(features))
    return nn.Sequential(
        BasicBlock(channels, features, stride, shortcut, dilation=rate, first_dilation=rate_before),
        BasicBlock(features, features, dilation=rate),
    )
