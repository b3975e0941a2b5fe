"""Units of three slices, and boxes of slices.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), sections 2.2 and 4.3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import torch

UNIT = 3
_TOP, _LEFT, _HEIGHT, _WIDTH = range(4)
Windows = npt.NDArray[np.int64]


def unit_colours(channels: int, copies: int = 1) -> list[int]:
    """For each channel of a unit, which of its slices it is of: with ImageNet's weights, red, green or blue.

    Args:
        channels: of the image.
        copies: how often the unit is repeated.
    """
    return [slice_ for slice_ in range(UNIT) for _ in range(channels)] * copies


def units_of(images: torch.Tensor) -> torch.Tensor:
    """Every slice with the one before and the one after.

    A 2D image has no neighbours and is repeated; so are the first and the last slice of a 3D image.

    Args:
        images: (B, channels, H, W) or (B, channels, Z, H, W).

    Returns:
        (B, 3 * channels, H, W) or (B * Z, 3 * channels, H, W); all channels of the slice before come first.
    """
    if images.ndim == 4:
        return images.repeat(1, UNIT, 1, 1)
    before = torch.cat([images[:, :, :1], images[:, :, :-1]], 2)
    after = torch.cat([images[:, :, 1:], images[:, :, -1:]], 2)
    return slices_of(torch.cat([before, images, after], 1))


def slices_of(maps: torch.Tensor) -> torch.Tensor:
    """(B, channels, Z, H, W) as slices (B * Z, channels, H, W); 2D maps (B, channels, H, W) as they are."""
    return maps if maps.ndim == 4 else maps.transpose(1, 2).flatten(0, 1)


def patches_of(slices: torch.Tensor, batch_size: int, is_3d: bool) -> torch.Tensor:
    """The inverse of :func:`slices_of`."""
    return slices.unflatten(0, (batch_size, -1)).transpose(1, 2) if is_3d else slices


def windows_of(inside: torch.Tensor, margin: int, multiple: int = 1, together: int = 1) -> Windows:
    """The smallest windows that hold what is inside, with a margin.

    A window is extended to a multiple where the slice has room for it, and moved back into the slice at its edge: the
    fine network sees few sizes, and image, not padding, around a box. A slice with nothing inside is its own window.
    Windows are whole numbers of the host, which waits for the device once: no gradient passes through them.

    Args:
        inside: (N, H, W) of bool.
        margin: in pixels.
        multiple: of height and width.
        together: number of successive slices that share a window.

    Returns:
        Top, left, height and width, (N, 4).
    """
    shared = inside.unflatten(0, (-1, together)).any(1)
    # One transfer of what is inside by row and by column.
    rows_and_columns = torch.cat([shared.any(2), shared.any(1)], 1).cpu().numpy() != 0
    rows, columns = np.split(rows_and_columns, [shared.shape[1]], axis=1)
    (top, height), (left, width) = (_extent(rows, margin, multiple), _extent(columns, margin, multiple))
    return np.stack([top, left, height, width], 1).repeat(together, 0)


def _extent(inside: npt.NDArray[np.bool_], margin: int, multiple: int) -> tuple[Windows, Windows]:
    """First pixel and number of pixels of each row of (N, length) of bool."""
    length = inside.shape[1]
    first = (inside.argmax(1) - margin).clip(min=0)
    end = (length - inside[:, ::-1].argmax(1) + margin).clip(max=length)
    nothing = ~inside.any(1)
    first[nothing], end[nothing] = 0, length
    number = (-((first - end) // multiple) * multiple).clip(max=length)
    return _moved(first, end - first, number, length), number


def _moved(first: Windows, number: Windows, wanted: Windows, length: int) -> Windows:
    """Where an extent begins that is grown on both sides alike, as far as there is room."""
    return np.minimum((first - (wanted - number) // 2).clip(min=0), length - wanted)


def of_one_size(windows: Windows, size: Sequence[int]) -> Windows:
    """Windows (N, 4) in slices of ``size``, all grown to the largest height and the largest width among them."""
    height, width = (np.full(len(windows), windows[:, side].max()) for side in (_HEIGHT, _WIDTH))
    top = _moved(windows[:, _TOP], windows[:, _HEIGHT], height, size[0])
    left = _moved(windows[:, _LEFT], windows[:, _WIDTH], width, size[1])
    return np.stack([top, left, height, width], 1)


def crop(slices: torch.Tensor, windows: Windows) -> torch.Tensor:
    """The windows (N, 4), all of one size, of slices (N, channels, H, W)."""
    parts, begin = [], 0
    for (top, left, h, w), alike in groupby(windows.tolist()):  # slices in a row that share a window at a time
        end = begin + len([*alike])
        parts.append(slices[begin:end, :, top : top + h, left : left + w])
        begin = end
    assert begin == len(slices)
    return torch.cat(parts)


def paste(crops: torch.Tensor, windows: Windows, around: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`crop`: a copy of ``around`` (N, channels, H, W) that holds the crops in their windows."""
    whole = around.clone()
    for i, (top, left, h, w) in enumerate(windows.tolist()):
        whole[i, :, top : top + h, left : left + w] = crops[i]
    return whole
