"""Two networks in cascade with auto-context, trained end to end.

Source: Conze et al. 2021 (doi 10.1016/j.artmed.2021.102109), section 3.3 and Fig. 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nnunet_ext.precision import full_precision


class CascadedNetwork(nn.Module):
    """The second network sees the image and what the first one made of it; its output is that of the cascade.

    "The sigmoid activation of the first [network] is replaced by a linear function to generate continuous output maps.
    These maps are normalized, concatenated to source images and given as inputs of the second."

    Args:
        first: images (B, channels, *spatial) to logits (B, C, *spatial).
        second: images with maps (B, channels + C, *spatial) to logits (B, C, *spatial), or to a list of them (deep
            supervision).
        residual: whether the second network corrects the logits of the first: its finest output is added to them. In
            the paper it replaces them.
    """

    def __init__(self, first: nn.Module, second: nn.Module, residual: bool = False) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.residual = residual

    @property
    def decoder(self) -> Any:
        """Of the second network: nnU-Net switches deep supervision there."""
        return self.second.decoder

    def forward(self, x: torch.Tensor) -> Any:
        """Output of the second network for images (B, channels, *spatial), with the first one's if ``residual``."""
        first = self.first(x)
        outputs = self.second(torch.cat([x, normalise(first).to(x.dtype)], 1))
        if not self.residual:
            return outputs
        return [first + outputs[0], *outputs[1:]] if isinstance(outputs, (list, tuple)) else first + outputs


def normalise(maps: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    """Maps (B, C, *spatial) with mean 0 and variance 1 each in every sample: of a patch, not of a case.

    The paper does not say how it normalises. A constant map becomes 0. Half precision is lifted to float32, as it has
    no room for sums of squares of logits.
    """
    # Not instance_norm, which makes values of the rounding errors of a large constant map (0.02 of 3,000).
    axes = tuple(range(2, maps.ndim))
    maps = full_precision(maps)
    shifted = maps - maps.mean(axes, keepdim=True)
    return shifted * torch.rsqrt(shifted.square().mean(axes, keepdim=True) + eps)
