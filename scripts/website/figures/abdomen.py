"""A slice of the synthetic abdomen, and what a network might make of it.

No trained network is needed: predictions are pretended, the labels of the phantom moved a little and blurred. What the
figures show of them is computed by the project's own code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn.functional import one_hot

from nnunet_ext.core.figure_style import INK
from nnunet_ext.phantom.anatomy import make_phantom
from nnunet_ext.phantom.contrast import scan

ORGANS = {
    "liver": "#f59e0b",
    "stomach": "#22d3ee",
    "right_kidney": "#84cc16",
    "left_kidney": "#f472b6",
    "pancreas": "#a78bfa",
}
SPACING = 2.0  # mm
HEIGHT = 224 / 288  # of a slice, by its width
_ROWS, _COLUMNS = (68, 292), (16, 304)  # of the body, in mm
_WINDOW = (-160, 240)  # HU


@dataclass(frozen=True)
class Slice:
    """A slice of a synthetic patient: grey values from 0 to 1, and labels, numbered as in :data:`ORGANS`; (H, W)."""

    image: NDArray[np.float64]
    labels: NDArray[np.uint8]


@cache
def abdomen(seed: int = 7, spacing: float = SPACING) -> Slice:
    """A slice through kidneys and pancreas, with pixels of ``spacing`` mm."""
    number = round(320 / spacing)
    phantom = make_phantom(seed, (1, number, number), (8.0, spacing, spacing))
    body = tuple(slice(*(round(end / spacing) for end in ends)) for ends in (_ROWS, _COLUMNS))
    low, high = _WINDOW
    seen = ndimage.gaussian_filter(scan(phantom)[0].astype(float), 1.2 / spacing)  # less noise, a smaller file
    return Slice(((seen - low) / (high - low)).clip(0, 1)[body], phantom.labels([*ORGANS])[0][body])


def pretended_logits(labels: NDArray[np.uint8], seed: int, moved: float = 3.0, blur: float = 2.0) -> torch.Tensor:
    """Logits (1, C, *spatial) of a network that nearly knows the labels.

    Args:
        labels: the truth, (*spatial).
        seed: of the errors.
        moved: borders are moved by so many pixels, here and there.
        blur: of the borders, in pixels.
    """
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.standard_normal((labels.ndim, *labels.shape)), (0, *[8] * labels.ndim))
    way = noise * (moved / noise.std())
    where = np.indices(labels.shape) + way
    maps = [
        ndimage.map_coordinates((labels == k).astype(float), where, order=1, mode="nearest")
        for k in range(len(ORGANS) + 1)
    ]
    smooth = np.stack([ndimage.gaussian_filter(each, blur) for each in maps])
    return torch.from_numpy(np.log(smooth + 1e-3))[None].float()


def hard(logits: torch.Tensor) -> NDArray[np.int64]:
    """The label map (H, W) of logits (1, C, H, W)."""
    return logits.argmax(1)[0].numpy()


def coloured(logits: torch.Tensor) -> NDArray[np.float32]:
    """Probabilities (H, W, 3) of all organs, each in its colour, of logits (1, C, H, W); the background is dark."""
    colours = torch.tensor([to_rgb(colour) for colour in (INK, *ORGANS.values())])
    return torch.einsum("chw,cr->hwr", torch.softmax(logits, 1)[0], colours).numpy()


def certain(labels: NDArray[np.uint8]) -> torch.Tensor:
    """Logits (1, C, *spatial) that are sure of the labels (*spatial)."""
    return 99 * one_hot(torch.from_numpy(labels).long(), len(ORGANS) + 1).movedim(-1, 0)[None].float()
