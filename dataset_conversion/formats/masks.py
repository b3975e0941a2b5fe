"""PNG masks, one file per slice."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from nnunet_ext.core.errors import UserError


def read_mask(path: Path) -> np.ndarray:
    """Read the grey values of one PNG file, as every viewer shows them.

    A palette stands for the colours it lists and grey of fewer bits for its share of 255; colours and a palette may be
    used where all of them are greys. Of a 1-bit image the values are 0 and 1. Grey of 16 bits is scaled to 8 where
    that is exact, and taken as it is where no value is above 255.

    Returns:
        ``(rows, columns)`` uint8.

    Raises:
        UserError: the file is damaged, coloured, partly transparent, or has values beyond 8 bits.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # checksums, which loading does not look at
        with Image.open(path, formats=["PNG"]) as image:
            bits, colour_type = struct.unpack_from("2B", path.read_bytes(), 24)
            mode, frames = image.mode, getattr(image, "n_frames", 1)
            array = np.asarray(image if mode in ("1", "L") or mode.startswith("I") else image.convert("RGBA"))
            is_opaque = "transparency" not in image.info or mode not in ("1", "L") or _is_dark(image)
    except Exception as error:  # Pillow raises SyntaxError, ValueError, OSError and others for damaged files
        raise UserError(f"{path} is not a readable PNG file ({type(error).__name__}: {error}).") from error
    if frames > 1:
        raise UserError(f"{path} is no mask: it is an animation of {frames} pictures.")
    if bits == 16 and colour_type != 0:  # Pillow reads colours of 16 bits as 8
        raise UserError(f"{path} is no mask: it has colours of 16 bits.")
    if array.ndim == 3:
        transparent = array[..., 3] < 255
        is_opaque = not array[..., :3][transparent].any()
        if (array[..., :3] != array[..., :1]).any():
            raise UserError(f"{path} is no mask of grey values: it has colours.")
        array = array[..., 0]
    if not is_opaque:
        raise UserError(f"{path} is no mask: some of its pixels that are not black are transparent.")
    if array.dtype.itemsize > 1:
        array = _to_8_bits(array, path)
    return array.astype(np.uint8)


def _is_dark(image: Image.Image) -> bool:
    """Whether the one grey value that is transparent is black."""
    return image.info["transparency"] == 0


def _to_8_bits(array: np.ndarray, path: Path) -> np.ndarray:
    if array.min() >= 0 and array.max() <= 255:
        return array
    if (array % 257 == 0).all():
        return array // 257
    raise UserError(f"{path} is no mask: its values go up to {array.max()}, beyond 8 bits.")
