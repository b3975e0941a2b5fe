"""PNG masks, one file per slice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nnunet_ext.core.errors import UserError


def read_mask(path: Path) -> np.ndarray:
    """Read the grey values of one PNG file; of a colour image the first channel, of a 1-bit image 0 and 1.

    Returns:
        ``(rows, columns)`` uint8.

    Raises:
        UserError: the file is damaged or has more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            image.verify()  # checksums, which loading does not look at
        with Image.open(path) as image:
            array = np.asarray(image)
    except Exception as error:  # Pillow raises SyntaxError, ValueError, OSError and others for damaged files
        raise UserError(f"{path} is not a readable PNG file ({type(error).__name__}: {error}).") from error
    if array.ndim == 3:
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "bu" or array.dtype.itemsize != 1:
        raise UserError(f"{path} is no mask: its pixels are {array.dtype} of shape {array.shape}.")
    return array.astype(np.uint8)
