"""Segmentation of single slices on three levels: region, boundary and uncertain pixels.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), sections 2.3 and 3, Fig. 2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import interpolate
from torch.utils.checkpoint import checkpoint
from torchvision.models.segmentation.deeplabv3 import ASPP

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.losses.uncertain_points import IMPORTANCE, at_points, certainty
from nnunet_ext.networks.resnet18 import FEATURES, ResNet18
from nnunet_ext.precision import full_precision

CHANNELS = 256
# Of DeepLab-v3 at the resolution that it has with ImageNet; the paper does not name its own.
RATES = (6, 12, 18)

# Pixels of slices that are fused at a time: enough for a device to be busy, little beside the maps of a patch.
_PIXELS_AT_ONCE = 1 << 17

Maps = dict[str, torch.Tensor]
PixelModule = Literal["attention", "mlp"]
Fusion = Literal["guidance", "convolutions"]


class AtrousNetwork(nn.Module):
    """ResNet-18, ASPP and two 1x1 convolutions: the coarse network, and the fine one of Fig. 2.

    Args:
        colours: see :class:`ResNet18`.
        heads: number of segmentation heads C.
        stem_stride: see :class:`ResNet18`.
        features: channels of the blocks of the backbone.
        channels: of the ASPP module.
        rates: atrous rates of the ASPP module.
        dropout: of the ASPP module. torchvision has 0.5 here, the paper of DeepLab-v3 none.
        upsampling: the slices are enlarged by this factor before the backbone, whose output is so much finer then.
    """

    def __init__(
        self,
        colours: Sequence[int],
        heads: int,
        stem_stride: int = 1,
        features: Sequence[int] = FEATURES,
        channels: int = CHANNELS,
        rates: Sequence[int] = RATES,
        dropout: float = 0.0,
        upsampling: int = 1,
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.backbone = ResNet18(colours, stem_stride, features=features)
        self.region = _branch(features[-1], channels, rates, dropout)
        self.region_head = nn.Conv2d(channels, heads, 1)

    def forward(
        self, x: torch.Tensor, noise: torch.Tensor | None = None, guided: bool = True, layout: LabelLayout = CLASSES
    ) -> Maps:
        """Logits of slices (N, channels, H, W).

        Args:
            x: the slices.
            noise: not used, and neither are ``guided`` and ``layout``: all fine networks are called alike.
            guided: not used.
            layout: not used.

        Returns:
            ``final`` (N, C, H, W), and ``logits``, from which it is interpolated: 4 times coarser than the enlarged
            slices, or 8 times with ``stem_stride`` 2.
        """
        logits = self.region_head(self.region(self.backbone(_upsample(x, self.upsampling))[1]))
        return {"final": _enlarge(logits, x.shape[2:]), "logits": logits}


class MultiLevelNetwork(nn.Module):
    """The structural network of Fig. 4: three branches on one backbone, and the module that fuses them.

    Args:
        colours: see :class:`ResNet18`.
        heads: number of segmentation heads C. Each has a signed distance too: the heads are all that the plans tell of
            the classes. That of the background, where there is one, is not used.
        features: channels of the blocks of the backbone.
        channels: of every branch.
        rates: atrous rates of the ASPP modules.
        dropout: of the ASPP modules, see :class:`AtrousNetwork`.
        attention_heads: of the self-attention.
        pixels_per_point: one uncertain pixel is chosen in so many: the paper's N, which it does not name, as one pixel
            of the logits, which are 4 times coarser.
        max_points: but not more than these; the cost of attention rises with the square.
        pixel_module: "mlp" replaces attention by four shared layers (Table 9, "w/o Pixel module").
        fusion: "convolutions" replaces the guidance by four 3x3 convolutions (Table 9, "w/o MLSG module").
        residual: whether the fusion corrects the logits of the region branch, from which it starts; in the paper it
            replaces them.
        upsampling: see :class:`AtrousNetwork`.
    """

    def __init__(
        self,
        colours: Sequence[int],
        heads: int,
        features: Sequence[int] = FEATURES,
        channels: int = CHANNELS,
        rates: Sequence[int] = RATES,
        dropout: float = 0.0,
        attention_heads: int = 8,
        pixels_per_point: int = 16,
        max_points: int = 1024,
        pixel_module: PixelModule = "attention",
        fusion: Fusion = "guidance",
        residual: bool = False,
        upsampling: int = 1,
    ) -> None:
        super().__init__()
        self.upsampling = upsampling
        self.pixels_per_point = pixels_per_point
        self.max_points = max_points
        self.backbone = ResNet18(colours, 1, features=features)
        self.region = _branch(features[-1], channels, rates, dropout)
        self.region_head = nn.Conv2d(channels, heads, 1)
        self.boundary = _branch(features[-1], channels, rates, dropout)
        self.boundary_head = nn.Conv2d(channels, heads, 1)
        self.pixel: nn.Module = (
            PixelAttention(features[0], channels, attention_heads)
            if pixel_module == "attention"
            else SharedLayers(features[0], channels)
        )
        self.pixel_head = nn.Conv1d(channels, heads, 1)
        self.fusion: SaliencyGuidance | ConvolutionalFusion = (
            SaliencyGuidance(channels, heads) if fusion == "guidance" else ConvolutionalFusion(channels, heads)
        )
        self.residual = residual
        if residual:
            last = [module for module in self.fusion.modules() if isinstance(module, nn.Conv2d)][-1]
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.zeros_(last.bias)

    def forward(
        self, x: torch.Tensor, noise: torch.Tensor | None = None, guided: bool = True, layout: LabelLayout = CLASSES
    ) -> Maps:
        """Predictions on all levels for slices (N, channels, H, W).

        Args:
            x: the slices.
            noise: (N, 1, H, W), uniform from 0 to 1, by which some of the pixels are chosen; without, all are chosen
                by their uncertainty.
            guided: whether the pixel branch and the fusion are trained already; without them the region is final.
            layout: of the labels.

        Returns:
            Logits ``final`` and ``region`` (N, C, H, W); ``boundary`` (N, C, H, W), positive inside. Where guided,
            ``points`` (N, P), positions in the flattened slice, and logits ``pixel`` (N, C, P) there.
        """
        size = x.shape[2:]
        early, deep = self.backbone(_upsample(x, self.upsampling))
        region, boundary = self.region(deep), self.boundary(deep)
        region_logits = _enlarge(self.region_head(region), size)
        maps = {"region": region_logits, "boundary": _enlarge(self.boundary_head(boundary), size)}
        if not guided:
            return {**maps, "final": region_logits}
        number = max(1, min(self.max_points, size[0] * size[1] // self.pixels_per_point))
        points = uncertain_pixels(region_logits, number, noise, layout)
        features = self.pixel(at_points(early, centres(points, size)))
        fused = self._fuse((region, boundary, features, points), size)
        fused = region_logits + fused if self.residual else fused
        return {**maps, "final": fused, "points": points, "pixel": self.pixel_head(features)}

    def _fuse(self, levels: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
        """Logits (N, C, *size) of features of all levels, a few slices at a time.

        At full resolution the features of three levels and their products are many times those of the branches, which
        are 4 times coarser. So where there are several parts they are made anew in the backward pass, part by part.

        Args:
            levels: what :meth:`_weigh` takes, of N slices.
            size: height and width.
        """
        number = max(1, _PIXELS_AT_ONCE // (size[0] * size[1]))
        if levels[0].shape[0] <= number:
            return self.fusion.finish(self._weigh(size, *levels))
        mixed = [
            checkpoint(self._weigh, size, *part, use_reentrant=False, preserve_rng_state=False)  # nothing is random
            for part in zip(*(maps.split(number) for maps in levels), strict=True)
        ]
        return self.fusion.finish(torch.cat(mixed))

    def _weigh(
        self,
        size: Sequence[int],
        region: torch.Tensor,
        boundary: torch.Tensor,
        features: torch.Tensor,
        points: torch.Tensor,
    ) -> torch.Tensor:
        region, boundary = _enlarge(region, size), _enlarge(boundary, size)
        return self.fusion.weigh(region, boundary, scatter_points(features, points, size))


class PixelAttention(nn.Module):
    """Self-attention among points and a point-wise layer, both residual, then a shared layer (section 3.3).

    Args:
        in_channels: of the features of block 1.
        channels: of the result.
        heads: of the attention.
    """

    def __init__(self, in_channels: int, channels: int, heads: int = 8) -> None:
        super().__init__()
        self.enter = nn.Conv1d(in_channels, channels, 1)
        self.attention = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.pointwise = nn.Conv1d(channels, channels, 1)
        self.shared = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features (N, channels, P) of points (N, in_channels, P)."""
        x = self.enter(x)
        tokens = x.transpose(1, 2)
        x = x + self.attention(tokens, tokens, tokens, need_weights=False)[0].transpose(1, 2)
        x = x + torch.relu(self.pointwise(x))
        return torch.relu(self.shared(x))


class SharedLayers(nn.Sequential):
    """Four layers shared by all points, as in PointRend: they see each point alone.

    Args:
        in_channels: of the features of block 1.
        channels: of the result.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv1d(channels if i else in_channels, channels, 1), nn.ReLU()]
        super().__init__(*layers)


class DepthwiseOne(nn.Module):
    """A depth-wise 1x1 convolution: a factor and a summand for each channel, which PyTorch's is slow at on a CPU.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # As nn.Conv2d draws them, for one weight an output.
        self.weight = nn.Parameter(torch.empty(channels, 1, 1).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.empty(channels, 1, 1).uniform_(-1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The same shape as ``x``, (N, channels, H, W)."""
        return self.weight * x + self.bias


class SaliencyGuidance(nn.Module):
    """Region features weighted by boundary and by pixel saliency (section 3.4).

    Two depth-wise 1x1 convolutions of the sum of boundary and pixel features give the weight maps. They pass a sigmoid,
    of which the paper does not speak: weights of any sign and size make a product of three features unstable. The first
    of the two last 1x1 convolutions is normalised, as in the branches: the products are small, the module joins late.

    Args:
        channels: of each of the features.
        heads: number of segmentation heads C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.boundary_weight = DepthwiseOne(channels)
        self.pixel_weight = DepthwiseOne(channels)
        self.mix = nn.Conv2d(2 * channels, channels, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Conv2d(channels, heads, 1)

    def forward(self, region: torch.Tensor, boundary: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """Logits (N, C, H, W) of features (N, channels, H, W) each."""
        return self.finish(self.weigh(region, boundary, pixel))

    def weigh(self, region: torch.Tensor, boundary: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """What each slice makes of its own features: (N, channels, H, W)."""
        both = boundary + pixel
        by_boundary = region * (torch.sigmoid(self.boundary_weight(both)) * boundary)
        by_pixel = region * (torch.sigmoid(self.pixel_weight(both)) * pixel)
        return self.mix(torch.cat([by_boundary, by_pixel], 1))

    def finish(self, mixed: torch.Tensor) -> torch.Tensor:
        """Logits of it, which is normalised over all slices."""
        return self.head(torch.relu(self.norm(mixed)))


class ConvolutionalFusion(nn.Module):
    """Four 3x3 convolutions of all features, in place of the guidance.

    Args:
        channels: of each of the features.
        heads: number of segmentation heads C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [nn.Conv2d(channels if i else 3 * channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, heads, 1))

    def forward(self, region: torch.Tensor, boundary: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """Logits (N, C, H, W) of features (N, channels, H, W) each."""
        return self.finish(self.weigh(region, boundary, pixel))

    def weigh(self, region: torch.Tensor, boundary: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
        """The logits already: each slice is on its own."""
        return self.layers(torch.cat([region, boundary, pixel], 1))

    def finish(self, mixed: torch.Tensor) -> torch.Tensor:
        """The same."""
        return mixed


def uncertain_pixels(
    logits: torch.Tensor,
    number: int,
    noise: torch.Tensor | None = None,
    layout: LabelLayout = CLASSES,
    importance: float = IMPORTANCE,
) -> torch.Tensor:
    """The pixels where a prediction is least certain, and others at random (section 2.4 on the regular grid).

    Args:
        logits: (N, C, H, W).
        number: P.
        noise: (N, 1, H, W), uniform from 0 to 1; without, all pixels are chosen by their uncertainty.
        layout: of the labels.
        importance: share of the pixels that are chosen by their uncertainty.

    Returns:
        Positions in the flattened slice, (N, P), all different.
    """
    with torch.no_grad():
        sure = certainty(full_precision(logits).flatten(2), layout)
        by_uncertainty = number if noise is None else round(importance * number)
        uncertain = sure.topk(by_uncertainty, 1, largest=False).indices
        if noise is None:
            return uncertain
        left = full_precision(noise).flatten(1).scatter(1, uncertain, -1)
        return torch.cat([uncertain, left.topk(number - by_uncertainty, 1).indices], 1)


def centres(points: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Centres of pixels, (N, P, 2) from -1 to 1 along both axes, of positions (N, P) in a flattened slice."""
    height, width = size
    rows, columns = points // width, points % width
    return torch.stack([(2 * rows + 1) / height - 1, (2 * columns + 1) / width - 1], -1)


def scatter_points(features: torch.Tensor, points: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """A slice (N, channels, *size) of zeros with features (N, channels, P) at positions (N, P)."""
    slices = features.new_zeros(*features.shape[:2], size[0] * size[1])
    where = points[:, None].expand(-1, features.shape[1], -1)
    return slices.scatter(2, where, features).reshape(*features.shape[:2], *size)


def group_normalised(module: nn.Module, groups: int = 16) -> nn.Module:
    """Replace every ``BatchNorm2d`` within ``module`` by ``GroupNorm``, for batches too small for statistics.

    The default is batch normalisation, whose weights and statistics are part of those of ImageNet.

    Args:
        module: changed and returned.
        groups: where the number of channels is a multiple of it, else one group.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            channels = child.num_features
            setattr(module, name, nn.GroupNorm(groups if channels % groups == 0 else 1, channels))
        else:
            group_normalised(child, groups)
    return module


def _branch(in_channels: int, channels: int, rates: Sequence[int], dropout: float) -> nn.Sequential:
    """ASPP and the first of the two 1x1 convolutions; the second one is the head."""
    aspp = ASPP(in_channels, list(rates), channels)
    aspp.project[-1] = nn.Dropout(dropout)
    return nn.Sequential(aspp, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())


def _enlarge(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    return interpolate(maps, size, mode="bilinear", align_corners=False)


def _upsample(x: torch.Tensor, factor: int) -> torch.Tensor:
    return x if factor == 1 else _enlarge(x, [factor * length for length in x.shape[2:]])
