"""Units of three slices, and boxes of slices.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), sections 2.2 and 4.3.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

UNIT = 3
_TOP, _LEFT, _HEIGHT, _WIDTH = range(4)


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


def windows_of(inside: torch.Tensor, margin: int, multiple: int = 1, together: int = 1) -> torch.Tensor:
    """The smallest windows that hold what is inside, with a margin.

    A window is extended to a multiple where the slice has room for it, and moved back into the slice at its edge: the
    fine network sees few sizes, and image, not padding, around a box. A slice with nothing inside is its own window.
    Windows are whole numbers: no gradient passes through them.

    Args:
        inside: (N, H, W) of bool.
        margin: in pixels.
        multiple: of height and width.
        together: number of successive slices that share a window.

    Returns:
        Top, left, height and width, (N, 4).
    """
    shared = inside.unflatten(0, (-1, together)).any(1)
    extents = [_extent(shared.any(2), margin, multiple), _extent(shared.any(1), margin, multiple)]
    (top, height), (left, width) = extents
    return torch.stack([top, left, height, width], 1).repeat_interleave(together, 0)


def _extent(inside: torch.Tensor, margin: int, multiple: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First pixel and number of pixels of each row of (N, length) of bool."""
    length = inside.shape[1]
    hit = inside.to(torch.uint8)
    first = (hit.argmax(1) - margin).clamp(min=0)
    end = (length - hit.flip(1).argmax(1) + margin).clamp(max=length)
    nothing = ~inside.any(1)
    first, end = first.masked_fill(nothing, 0), end.masked_fill(nothing, length)
    number = (-((first - end) // multiple) * multiple).clamp(max=length)
    return _moved(first, end - first, number, length), number


def _moved(first: torch.Tensor, number: torch.Tensor, wanted: torch.Tensor, length: int) -> torch.Tensor:
    """Where an extent begins that is grown on both sides alike, as far as there is room."""
    return torch.minimum((first - (wanted - number) // 2).clamp(min=0), length - wanted)


def of_one_size(windows: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Windows (N, 4) in slices of ``size``, all grown to the largest height and the largest width among them."""
    height, width = windows[:, _HEIGHT].max(), windows[:, _WIDTH].max()
    top = _moved(windows[:, _TOP], windows[:, _HEIGHT], height, size[0])
    left = _moved(windows[:, _LEFT], windows[:, _WIDTH], width, size[1])
    return torch.stack([top, left, height.expand_as(top), width.expand_as(left)], 1)


def crop(slices: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """The windows (N, 4), all of one size, of slices (N, channels, H, W)."""
    places = windows.tolist()
    return torch.stack(
        [x[:, top : top + h, left : left + w] for x, (top, left, h, w) in zip(slices, places, strict=True)]
    )


def paste(crops: torch.Tensor, windows: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`crop`: a copy of ``around`` (N, channels, H, W) that holds the crops in their windows."""
    whole = around.clone()
    for i, (top, left, h, w) in enumerate(windows.tolist()):
        whole[i, :, top : top + h, left : left + w] = crops[i]
    return whole
