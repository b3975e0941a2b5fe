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


def colours_of(images: int, maps: int = 0) -> list[tuple[int, int]]:
    """Which input channels stand for red (0), green (1) and blue (2) of ImageNet.

    Without maps, a single image is all three colours, and of two the first one is taken twice (section 4.1). With maps,
    images are red and green, a single one both, and the map is blue (section 3.3). Further images and maps, which the
    paper does not have, share these colours.

    Args:
        images: number of image channels, the first ones of the input.
        maps: number of maps that follow.

    Returns:
        Pairs of input channel and colour, one for each channel that the first convolution sees.
    """
    colours = COLOURS - (maps > 0)
    seen = [(i % images, i % colours) for i in range(max(images, colours))]
    return seen + [(images + i, COLOURS - 1) for i in range(maps)]


class VGG19Encoder(nn.Module):
    """The convolutions of VGG-19 without its head: five blocks, max pooling between them.

    Args:
        colours: what the first convolution sees, see :func:`colours_of`.
        features: channels of each block.
    """

    def __init__(self, colours: Sequence[tuple[int, int]], features: Sequence[int] = FEATURES) -> None:
        super().__init__()
        self.inputs = [channel for channel, _ in colours]
        self.colours = [colour for _, colour in colours]
        blocks = []
        channels = len(self.inputs)
        for block_features, number in zip(features, CONVOLUTIONS, strict=True):
            blocks.append(_convolutions(channels, block_features, number))
            channels = block_features
        self.blocks = nn.ModuleList(blocks)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Output of every block, finest first, for images (B, channels, H, W)."""
        # Slices, as a list for an index would be copied to the device at every pass.
        x = torch.cat([x[:, i : i + 1] for i in self.inputs], 1)
        outputs = []
        for i, block in enumerate(self.blocks):
            x = block(self.pool(x) if i else x)
            outputs.append(x)
        return outputs

    def load_imagenet(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take over the weights of a classifier, ``features.N.weight`` and ``.bias`` as torchvision and timm name them.

        Channels that share a colour share its filters in equal parts, so that the outputs keep their size.

        Raises:
            ValueError: a layer is not among them, or has another shape.
        """
        layers = {}
        # In the classifier's sequence each convolution is followed by a ReLU, each block by a pooling.
        position = 0
        for block in self.blocks:
            for layer in block.children():
                if isinstance(layer, nn.Conv2d):
                    layers[f"features.{position}"] = layer
                    position += 2
            position += 1
        for i, (name, layer) in enumerate(layers.items()):
            shape = list(layer.weight.shape)
            shape[1] = shape[1] if i else COLOURS
            found = [list(weights[key].shape) if key in weights else None for key in (f"{name}.weight", f"{name}.bias")]
            if found != [shape, shape[:1]]:
                raise ValueError(f"{name} should have a weight and a bias of {shape} and {shape[:1]}, but has {found}")
            weight = weights[f"{name}.weight"]
            if not i:
                shares = torch.tensor([1 / self.colours.count(colour) for colour in self.colours])
                weight = weight[:, self.colours] * shares.view(1, -1, 1, 1)
            layer.load_state_dict({"weight": weight, "bias": weights[f"{name}.bias"]})


class VGG19UNet(nn.Module):
    """The encoder, and a decoder with as many convolutions and channels at every resolution; any image size.

    The fifth block, all four of its convolutions, is the central part between the two; the paper speaks of the last
    three.

    Args:
        colours: see :class:`VGG19Encoder`.
        out_channels: number of segmentation heads C.
        features: channels of each block.

    Shapes:
        input (B, channels, H, W), output logits (B, C, H, W).
    """

    def __init__(
        self, colours: Sequence[tuple[int, int]], out_channels: int, features: Sequence[int] = FEATURES
    ) -> None:
        super().__init__()
        self.encoder = VGG19Encoder(colours, features)
        self.up = nn.ModuleList()
        self.stages = nn.ModuleList()
        channels = features[-1]
        for block_features, number in zip(features[-2::-1], CONVOLUTIONS[-2::-1], strict=True):
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
