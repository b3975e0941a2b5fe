"""Whether a NIfTI file is whole: the bytes it holds against those its header promises.

ITK reads zeros for what is missing. Conversion, evaluation and the preprocessing of unlabelled images ask here; only
nibabel and ISA-L are needed, and both are imported by whoever has something to ask.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any


def stored_length(path: Path) -> int:
    """Bytes of a file, decompressed where its name ends in ``.gz``.

    Raises:
        EOFError, OSError, zlib.error: The file ends early, or its checksum is wrong.
    """
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    from isal import igzip

    length = 0
    with igzip.open(path) as stream:
        while chunk := stream.read(1 << 22):
            length += len(chunk)
    return length


def promised_length(image: Any) -> int:
    """Bytes, decompressed, that a file with this header has.

    Args:
        image: NIfTI image as nibabel loads it.
    """
    voxels = math.prod(image.header.get_data_shape())
    return int(image.dataobj.offset) + voxels * image.get_data_dtype().itemsize


def check_complete(path: Path) -> None:
    """Raise if a NIfTI file ends early or its checksum is wrong; of other files nothing is asked.

    Raises:
        ValueError: there are fewer bytes than the header promises.
        EOFError, OSError, zlib.error: it cannot be decompressed.
    """
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return
    import nibabel

    length, expected = stored_length(path), promised_length(nibabel.load(path))
    if length < expected:
        raise ValueError(f"it is truncated, with {length} bytes of {expected}")
