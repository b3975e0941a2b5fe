"""MetaImage headers: text files that name the file with the voxels."""

from __future__ import annotations

import math
import zlib
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
    return None if not name or name == "LOCAL" else path.parent / name


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
        _check_counts(header)
        voxels = math.prod(int(n) for n in header["DimSize"].split())
        skipped = int(header.get("HeaderSize", 0))  # bytes before the voxels; -1 leaves it to the length of the file
        needed = voxels * _META_BYTES[header["ElementType"]] * int(header.get("ElementNumberOfChannels", 1))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} is not a readable MetaImage header ({type(error).__name__}: {error}).") from error
    if raw is None:
        raise UserError(f"{path} does not name the file with its voxels.")
    if not raw.is_file():
        raise UserError(f"{path} has its voxels in {raw.name}, which is missing.")
    found = raw.stat().st_size
    if header.get("CompressedData", "").lower() == "true":
        found = _decompressed_length(raw)
    elif needed > 0:
        needed += max(0, skipped)
    if found < needed or needed <= 0:
        raise UserError(f"{raw} is truncated: {path.name} promises {needed} bytes and {found} are there.")


def _check_counts(header: dict[str, str]) -> None:
    """Raise :class:`ValueError` where a field has not as many finite numbers as the image has dimensions need."""
    dimensions = int(header["NDims"])
    for key, count in (
        *((key, dimensions) for key in ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin")),
        *((key, dimensions**2) for key in ("TransformMatrix", "Rotation", "Orientation")),
    ):
        # ITK reads nan as 0
        if key in header and len([n for n in map(float, header[key].split()) if math.isfinite(n)]) != count:
            raise ValueError(f"{key} is {header[key]}, and {count} numbers are expected")


def _decompressed_length(raw: Path) -> int:
    """Bytes of a zlib-compressed voxel file; ITK would go on with what it can decompress."""
    decompressor = zlib.decompressobj()
    length = 0
    try:
        with raw.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                length += len(decompressor.decompress(chunk))
        length += len(decompressor.flush())
    except zlib.error as error:
        raise UserError(f"{raw} is damaged ({error}).") from error
    if not decompressor.eof:
        raise UserError(f"{raw} is truncated: its compressed voxels end early.")
    return length
