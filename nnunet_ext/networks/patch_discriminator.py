"""Patch discriminators, in 2D and 3D, anisotropic voxels included.

Sources: Lian et al. 2025 (doi 10.1038/s41598-025-86087-8), "Auxiliary constraint": three convolutions, kernels 7, 5, 4;
Conze et al. 2021 (doi 10.1016/j.artmed.2021.102109), section 3.1 and Fig. 3: five convolutions, kernel 4, batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# An axis this much coarser than the finest one is neither convolved nor strided: nnU-Net's own rule for its pooling.
ANISOTROPY_LIMIT = 2.0


def layer_geometry(
    spacing: Sequence[float], kernel_sizes: Sequence[int], strides: Sequence[int]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernel and stride of each layer per axis, following the anisotropy of the voxels as nnU-Net's planner does.

    An axis more than twice as coarse as the finest axis *at that layer* gets kernel 1 and stride 1, until striding
    has made the others as coarse.

    Args:
        spacing: voxel size of the input per axis, mm; length 2 or 3.
        kernel_sizes: in-plane kernel size per layer.
        strides: in-plane stride per layer.

    Returns:
        Kernel sizes and strides, a tuple per layer with an entry per axis.
    """
    current = [float(s) for s in spacing]
    kernels: list[tuple[int, ...]] = []
    steps: list[tuple[int, ...]] = []
    for kernel_size, stride in zip(kernel_sizes, strides, strict=True):
        finest = min(current)
        fine = [s / finest <= ANISOTROPY_LIMIT for s in current]
        kernels.append(tuple(kernel_size if f else 1 for f in fine))
        steps.append(tuple(stride if f else 1 for f in fine))
        current = [s * step for s, step in zip(current, steps[-1], strict=True)]
    return kernels, steps


class PatchDiscriminator(nn.Module):
    """Convolutions with leaky ReLU between them; one logit per patch of the input.

    The defaults are those of Lian et al. 2025.

    Args:
        in_channels: number of classes or regions (probability or one-hot maps), and of image channels if it sees them.
        spacing: voxel size of the input per axis, mm; its length, 2 or 3, is the dimension.
        features: channels after each convolution but the last.
        kernel_sizes: in-plane kernels, one per convolution; 7, 5, 4 in the paper.
        strides: in-plane strides; not given in the paper, chosen to keep the cost of a training step low.
        batch_norm: batch normalisation after every leaky ReLU.

    Shapes:
        input (B, in_channels, *spatial), output (B, 1, *reduced spatial).

    Raises:
        ValueError: ``spacing`` has neither 2 nor 3 entries, or the numbers of layers do not agree.
    """

    def __init__(
        self,
        in_channels: int,
        spacing: Sequence[float],
        features: Sequence[int] = (16, 32),
        kernel_sizes: Sequence[int] = (7, 5, 4),
        strides: Sequence[int] = (4, 2, 1),
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(spacing) not in {2, 3}:
            raise ValueError(f"spacing must have 2 or 3 entries, got {tuple(spacing)}.")
        if not len(features) + 1 == len(kernel_sizes) == len(strides):
            raise ValueError(
                f"A discriminator of {len(strides)} strides needs as many kernels and one channel number fewer, got "
                f"{len(kernel_sizes)} and {len(features)}."
            )
        plane = len(spacing) == 2
        convolution: type[nn.Module] = nn.Conv2d if plane else nn.Conv3d
        normalisation: type[nn.Module] = nn.BatchNorm2d if plane else nn.BatchNorm3d
        kernels, steps = layer_geometry(spacing, kernel_sizes, strides)
        outputs = (*features, 1)
        layers: list[nn.Module] = []
        channels = in_channels
        for out, kernel, step in zip(outputs, kernels, steps, strict=True):
            if layers:
                layers.append(nn.LeakyReLU(0.2, inplace=True))
                if batch_norm:
                    # That of each batch: D is never run in another mode.
                    layers.append(normalisation(channels, track_running_stats=False))
            layers.append(convolution(channels, out, kernel, step, padding=tuple(k // 2 for k in kernel)))
            channels = out
        self.layers = nn.Sequential(*layers)  # the last convolution gives logits

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 1, *reduced spatial) of ``maps`` (B, in_channels, *spatial)."""
        return self.layers(maps)
