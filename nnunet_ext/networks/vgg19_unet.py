"""U-Net with VGG-19 as encoder and a symmetric decoder, 2D.

Source: Conze et al. 2021 (doi 10.1016/j.artmed.2021.102109), section 3.2 and Fig. 4; the encoder: Simonyan and
Zisserman 2015, configuration E.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

FEATURES = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 4, 4, 4)
COLOURS = 3


def colours_of(images: int, maps: int = 0) -> list[int]:
    """Which input channels stand for red, green and blue of ImageNet.

    A single channel is repeated; of two, the first is taken twice; image and map are image, image and map (section 3.2,
    3.3 and 4.1). Three and more channels stay as they are.

    Args:
        images: number of image channels, the first ones of the input.
        maps: number of maps that follow.
    """
    if images + maps >= COLOURS:
        return list(range(images + maps))
    if maps:
        return [0, 0, 1]
    return [0, 1, 0] if images > 1 else [0, 0, 0]


class VGG19Encoder(nn.Module):
    """The convolutions of VGG-19 without its head: five blocks, max pooling between them.

    Args:
        colours: input channels that the first convolution sees, see :func:`colours_of`.
        features: channels of each block.
        convolutions: number of convolutions of each block.
    """

    def __init__(
        self, colours: Sequence[int], features: Sequence[int] = FEATURES, convolutions: Sequence[int] = CONVOLUTIONS
    ) -> None:
        super().__init__()
        self.colours = list(colours)
        blocks = []
        channels = len(self.colours)
        for block_features, number in zip(features, convolutions, strict=True):
            blocks.append(_convolutions(channels, block_features, number))
            channels = block_features
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Output of every block, finest first, for images (B, channels, H, W)."""
        x = x[:, self.colours]
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
            outputs.append(x)
        return outputs

    def load_imagenet(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a classifier, ``features.N.weight`` and ``.bias`` as torchvision and timm name them.

        With more than three input channels the first convolution repeats its three, scaled by 3 / channels, so that
        its outputs keep their size.

        Raises:
            KeyError: a layer is not among them.
            RuntimeError: a layer has another shape.
        """
        own = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        # In the classifier's sequence each convolution is followed by a ReLU, each block by a pooling.
        position = 0
        names = []
        for block in self.blocks:
            for layer in block.children():
                if isinstance(layer, nn.Conv2d):
                    names.append(f"features.{position}")
                    position += 2
            position += 1
        for name, layer in zip(names, own, strict=True):
            weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
            if layer is own[0] and len(self.colours) > COLOURS:
                channels = [i % COLOURS for i in range(len(self.colours))]
                weight = weight[:, channels] * (COLOURS / len(channels))
            layer.load_state_dict({"weight": weight, "bias": bias})


class VGG19UNet(nn.Module):
    """The encoder, and a decoder with as many convolutions and channels at every resolution; any image size.

    The fifth block is the central part between the two.

    Args:
        colours: see :class:`VGG19Encoder`.
        out_channels: number of segmentation heads C.
        features: channels of each block.
        convolutions: number of convolutions of each block.

    Shapes:
        input (B, channels, H, W), output logits (B, C, H, W).
    """

    def __init__(
        self,
        colours: Sequence[int],
        out_channels: int,
        features: Sequence[int] = FEATURES,
        convolutions: Sequence[int] = CONVOLUTIONS,
    ) -> None:
        super().__init__()
        self.encoder = VGG19Encoder(colours, features, convolutions)
        self.up = nn.ModuleList()
        self.stages = nn.ModuleList()
        channels = features[-1]
        for block_features, number in zip(features[-2::-1], convolutions[-2::-1], strict=True):
            self.up.append(nn.ConvTranspose2d(channels, block_features, 2, 2))
            self.stages.append(_convolutions(2 * block_features, block_features, number))
            channels = block_features
        self.head = nn.Conv2d(channels, out_channels, 1)
        for layer in self.modules():
            if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B, C, H, W) for images (B, channels, H, W)."""
        *skips, x = self.encoder(x)
        for up, stage, skip in zip(self.up, self.stages, reversed(skips), strict=True):
            # Pooling halves an odd size downwards: the output is told the size it came from.
            x = stage(torch.cat([up(x, output_size=skip.shape[2:]), skip], 1))
        return self.head(x)


def _convolutions(channels: int, features: int, number: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(number):
        layers += [nn.Conv2d(channels, features, 3, padding=1), nn.ReLU(inplace=True)]
        channels = features
    return nn.Sequential(*layers)
