"""From coarse to fine: a network that crops with its own prediction, and iterates.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), section 2.2, Eq. 9 and 14, Algorithm 1; Yu et al. 2018.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import leaky_relu, one_hot

from nnunet_ext.labels import LabelLayout
from nnunet_ext.networks.multi_level import Maps
from nnunet_ext.networks.slices import (
    Windows,
    crop,
    of_one_size,
    paste,
    patches_of,
    slices_of,
    units_of,
    windows_of,
)
from nnunet_ext.precision import full_precision

MARGIN = 20
TOLERANCE = 0.99
ROUNDS = 10

# Where the fine network did not look: odds of e^10 for background. nnU-Net averages logits over windows and mirrorings,
# so that a certainty beyond that of a network would outvote all others.
_OUTSIDE = 10.0


class SliceNetwork(nn.Module):
    """A network for slices, run on 2D images and on every slice of 3D images.

    In training the result is that of the network, in evaluation the final logits alone.

    What the heads are, and whether pixel branch and fusion are trained, is a part of the weights: stock inference
    builds the network without knowing of either.

    Args:
        fine: the network, see :class:`nnunet_ext.networks.multi_level.MultiLevelNetwork`.
        slices_at_once: in evaluation, so many slices go through the network together.
    """

    has_regions: torch.Tensor
    is_guided: torch.Tensor

    def __init__(self, fine: nn.Module, slices_at_once: int = 16) -> None:
        super().__init__()
        self.fine = fine
        self.slices_at_once = slices_at_once
        self.register_buffer("has_regions", torch.tensor(False))
        self.register_buffer("is_guided", torch.tensor(True))
        self._layout, self._guided = LabelLayout(False), True

    def set_regions(self, has_regions: bool) -> None:
        """Say whether the heads are regions (sigmoid) or classes (softmax)."""
        self.has_regions.fill_(has_regions)
        self._layout = LabelLayout(has_regions)

    def set_guided(self, is_guided: bool) -> None:
        """Say whether pixel branch and fusion are in use."""
        self.is_guided.fill_(is_guided)
        self._guided = is_guided

    def _read_settings(self) -> None:
        """As Python's own, so that no forward pass waits for the device to tell them."""
        self._layout, self._guided = LabelLayout(bool(self.has_regions)), bool(self.is_guided)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_settings()

    def backbones(self) -> list[Any]:
        """Those that ImageNet has weights for."""
        return [self.fine.backbone]

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> Any:
        """Predict images (B, channels, *spatial).

        Args:
            x: the images.
            noise: (B, 1, *spatial), see ``MultiLevelNetwork``.

        Returns:
            Logits (B, C, *spatial); in training what ``fine`` returns, maps as (B, C, *spatial).
        """
        units = units_of(x)
        is_3d = x.ndim == 5
        if not self.training:
            return patches_of(self._in_parts(self.fine, units), x.shape[0], is_3d)
        maps = self._run_fine(units, noise if noise is None else slices_of(noise))
        return _as_patches(maps, x.shape[0], is_3d)

    def _run_fine(self, units: torch.Tensor, noise: torch.Tensor | None) -> Maps:
        return self.fine(units, noise, guided=self._guided, layout=self._layout)

    def _in_parts(self, network: nn.Module, units: torch.Tensor) -> torch.Tensor:
        parts = units.split(self.slices_at_once)
        return torch.cat([network(part, guided=self._guided, layout=self._layout)["final"] for part in parts])


class SaliencyTransformation(nn.Module):
    """Two size-preserving convolutions, 5x5 and 3x3, of the probabilities (F_S of section 2.2).

    A leaky ReLU stands between them, without which they were one convolution; one that is not leaky may die at the
    start, as probabilities are never negative. The maps are around one then: the image passes.

    Args:
        heads: number of probability maps C, and of saliency maps.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(heads, heads, 5, padding=2)
        self.second = nn.Conv2d(heads, heads, 3, padding=1)
        assert self.second.bias is not None
        nn.init.ones_(self.second.bias)

    def forward(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Saliency maps (N, C, H, W) of probabilities (N, C, H, W)."""
        return self.second(leaky_relu(self.first(probabilities)))


class CoarseToFineNetwork(SliceNetwork):
    """A coarse network on the whole slice, and a fine one on the box of what is found there (Eq. 9).

    The box is that of all foreground classes together. Its crop keeps the size of its pixels, on which nnU-Net's plans
    have settled, and is extended to a multiple of ``multiple``.

    In evaluation the fine network is run again on the box and the saliency of its own output until two outputs agree
    (Algorithm 1, whose printed condition would go on after that).

    Args:
        coarse: a network for units of slices, see :class:`nnunet_ext.networks.multi_level.AtrousNetwork`.
        fine: a network for units of slices multiplied by each saliency map, followed by the units themselves.
        heads: number of segmentation heads C.
        margin: around the box, in pixels (K of section 2.2).
        multiple: of height and width of a box, where the slice has room for it.
        shared_box: whether the slices of a 3D patch share a box, as a slice without organ would otherwise have none and
            be run as a whole; ``False`` is the paper's letter. A 2D slice always has its own.
        tolerance: the iteration ends when RDSC (Eq. 14) reaches it,
        max_rounds: or after so many rounds. 0 stops at the coarse network.
        slices_at_once: see :class:`SliceNetwork`.
    """

    def __init__(
        self,
        coarse: nn.Module,
        fine: nn.Module,
        heads: int,
        margin: int = MARGIN,
        multiple: int = 16,
        shared_box: bool = True,
        tolerance: float = TOLERANCE,
        max_rounds: int = ROUNDS,
        slices_at_once: int = 16,
    ) -> None:
        super().__init__(fine, slices_at_once)
        self.coarse = coarse
        self.saliency = SaliencyTransformation(heads)
        self.heads = heads
        self.margin = margin
        self.multiple = multiple
        self.shared_box = shared_box
        self.tolerance = tolerance
        self.max_rounds = max_rounds
        # Of every patch predicted so far: the number of rounds, and the RDSC at the last one.
        self.rounds_used: list[tuple[int, float]] = []

    def backbones(self) -> list[Any]:
        """Those that ImageNet has weights for."""
        return [self.coarse.backbone, self.fine.backbone]

    # The choice of a box ends a compiled graph: under torch.compile only the networks within are compiled.
    @torch.compiler.disable(recursive=False)
    def forward(
        self,
        x: torch.Tensor,
        noise: torch.Tensor | None = None,
        truth: torch.Tensor | None = None,
        apart: bool = False,
    ) -> Any:
        """Predict images (B, channels, *spatial).

        Args:
            x: the images.
            noise: (B, 1, *spatial), see ``MultiLevelNetwork``; in training only, as is what follows.
            truth: true foreground, (B, 1, *spatial) of bool, of which the boxes are; without, they are those of the
                coarse prediction.
            apart: no gradient of the fine network reaches the coarse one.

        Returns:
            In evaluation logits (B, C, *spatial). In training the maps of the fine network, (B, C, *window), logits
            ``coarse`` (B, C, *spatial), and ``windows`` (N, 4) with N slices, see :mod:`nnunet_ext.networks.slices`.
        """
        if not self.training:
            *_, (logits, _) = self.rounds(x)
            return logits
        units = units_of(x)
        is_3d = x.ndim == 5
        coarse = self.coarse(units, guided=self._guided, layout=self._layout)["final"]
        inside = self._found(coarse).any(1) if truth is None else slices_of(truth)[:, 0]
        windows = of_one_size(self._windows(inside, self._together(x)), units.shape[2:])
        fine_input = crop(self._fine_input(units, coarse.detach() if apart else coarse), windows)
        maps = self._run_fine(fine_input, noise if noise is None else crop(slices_of(noise), windows))
        return {
            **_as_patches(maps, x.shape[0], is_3d),
            "coarse": patches_of(coarse, x.shape[0], is_3d),
            "windows": windows,
        }

    def rounds(self, x: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Predict images round by round (Algorithm 1): a patch that has converged stays as it is.

        Yields:
            Logits (B, C, *spatial), of the coarse network first, and the RDSC of each patch with its round before,
            (B,), of which there is none (NaN) at first.
        """
        units = units_of(x)
        together = self._together(x)
        number, is_3d = x.shape[0], x.ndim == 5
        logits = self._in_parts(self.coarse, units)
        agreement = [math.nan] * number
        rounds_of = [0] * number
        yield patches_of(logits, number, is_3d), torch.tensor(agreement)
        going = list(range(number))
        for round_ in range(1, self.max_rounds + 1):
            slices = torch.cat(
                [torch.arange(i * units.shape[0] // number, (i + 1) * units.shape[0] // number) for i in going]
            ).to(x.device, non_blocking=True)
            before = logits[slices]
            after = self._refine(units[slices], before, together)
            logits = logits.index_copy(0, slices, after)
            found = relative_dice(
                self._found(before).unflatten(0, (len(going), -1)), self._found(after).unflatten(0, (len(going), -1))
            )
            for i, value in zip(going, found.cpu().numpy().tolist(), strict=True):
                agreement[i] = value
                rounds_of[i] = round_
            yield patches_of(logits, number, is_3d), torch.tensor(agreement)
            going = [i for i in going if agreement[i] < self.tolerance]
            if not going:
                break
        self.rounds_used += zip(rounds_of, agreement, strict=True)

    def _refine(self, units: torch.Tensor, logits: torch.Tensor, together: int) -> torch.Tensor:
        """One round: the fine network's logits (N, C, H, W), background where it did not look."""
        windows = self._windows(self._found(logits).any(1), together)
        fine_input = self._fine_input(units, logits)
        outside = torch.full_like(logits, -_OUTSIDE / (1 if self._layout.regions else 2))
        if not self._layout.regions:
            outside[:, 0] *= -1
        result = outside
        # Windows of one size at a time: what a slice becomes must not depend on the others of its batch.
        for size in np.unique(windows[:, 2:], axis=0):
            chosen = (windows[:, 2:] == size).all(1).nonzero()[0]
            members = torch.tensor(chosen.tolist()).to(logits.device, non_blocking=True)
            crops = self._in_parts(self.fine, crop(fine_input[members], windows[chosen]))
            result = result.index_copy(0, members, paste(crops.to(result.dtype), windows[chosen], outside[members]))
        return result

    def _fine_input(self, units: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """I ⊙ U for every saliency map I, and U, of Eq. 9."""
        logits = full_precision(logits)
        saliency = self.saliency(self._layout.probabilities(logits))
        weighted = (saliency[:, :, None] * units[:, None]).flatten(1, 2)
        return torch.cat([weighted, units.to(weighted.dtype)], 1)

    def _found(self, logits: torch.Tensor) -> torch.Tensor:
        """Foreground classes or regions of the hard prediction, (N, classes, H, W) of bool."""
        logits = logits.detach()
        if self._layout.regions:
            return logits > 0
        return one_hot(logits.argmax(1), logits.shape[1]).movedim(-1, 1)[:, 1:] != 0

    def _windows(self, inside: torch.Tensor, together: int) -> Windows:
        return windows_of(inside, self.margin, self.multiple, together)

    def _together(self, x: torch.Tensor) -> int:
        return x.shape[2] if self.shared_box and x.ndim == 5 else 1


def relative_dice(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """RDSC (Eq. 14) of two hard predictions, (B, ...) of bool; all classes of a patch together; 1 where both are empty.

    Returns:
        (B,), from 0 to 1.
    """
    before, after = before.flatten(1), after.flatten(1)
    total = before.sum(1) + after.sum(1)
    return torch.where(total > 0, 2 * (before & after).sum(1) / total.clamp(min=1), 1.0)


def _as_patches(maps: Maps, batch_size: int, is_3d: bool) -> Maps:
    """Maps of slices as maps of images; what belongs to points stays with its slice."""
    return {name: patches_of(value, batch_size, is_3d) if value.ndim == 4 else value for name, value in maps.items()}
