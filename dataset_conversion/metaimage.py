"""MetaImage headers: text files that name the file with the voxels."""

from __future__ import annotations

import math
from pathlib import Path

from nnunet_ext.core.errors import UserError

_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG", "MET_ULONG", "MET_DOUBLE"), 8),
}


def companion(path: Path) -> Path | None:
    """The file that holds the voxels of a MetaImage header; None for other files and where the header names none."""
    name = _meta_header(path).get("ElementDataFile") if path.suffix.lower() == ".mhd" else None
    return None if name is None or name == "LOCAL" else path.with_name(name)


def _meta_header(path: Path) -> dict[str, str]:
    """The ``key = value`` lines of a MetaImage header."""
    lines = (line.partition("=") for line in path.read_bytes()[:65536].decode("latin-1").splitlines())
    return {key.strip(): value.strip() for key, separator, value in lines if separator}


def check_raw_length(path: Path) -> None:
    """Compare the length of a MetaImage's voxel file with what the header implies; ITK would say little.

    Raises:
        UserError: the header is damaged, or the voxel file is missing or too short.
    """
    header, raw = _meta_header(path), companion(path)
    try:
        voxels = math.prod(int(n) for n in header["DimSize"].split())
        needed = voxels * _META_BYTES[header["ElementType"]] * int(header.get("ElementNumberOfChannels", 1))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable MetaImage header ({type(error).__name__}: {error}).") from error
    if raw is None:
        raise UserError(f"{path} does not name the file with its voxels.")
    if not raw.is_file():
        raise UserError(f"{path} has its voxels in {raw.name}, which is missing.")
    if header.get("CompressedData", "").lower() != "true" and raw.stat().st_size < needed:
        raise UserError(f"{raw} is truncated: {path.name} promises {needed} bytes and {raw.stat().st_size} are there.")
