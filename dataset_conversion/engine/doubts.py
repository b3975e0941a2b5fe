"""What most likely is wrong with an image, and the sentences that say so."""

from __future__ import annotations

from pathlib import Path

from dataset_conversion.formats.volumes import Volume
from dataset_conversion.plausible import implausible
from nnunet_ext.core.errors import UserError


def doubts_on(path: Path, image: Volume, field_of_view_mm: tuple[float, float]) -> list[str]:
    """Find what most likely is wrong with an image's grid.

    Args:
        path: the image, for the message.
        image: its header.
        field_of_view_mm: shortest and longest plausible length of its longest edge.

    Raises:
        UserError: the grid cannot be used at all.
    """
    if image.remarks.fault:
        raise UserError(f"{path} {image.remarks.fault}.")
    grid = image.geometry
    found = implausible(grid.size[:3], grid.spacing[:3], image.unit, field_of_view_mm)
    return [*image.remarks.doubts, *([found] if found else [])]


def with_force(path: Path, doubt: str) -> str:
    """The sentence of a doubt that stops the conversion unless ``--force`` is given."""
    return f"{path} {doubt}; mend it, or convert it as it is with --force."


def sentence(error: UserError | OSError) -> str:
    """One sentence on a case that cannot be read."""
    if isinstance(error, UserError):
        return str(error)
    return f"{error.filename or 'A file'} cannot be read: {error.strerror or error}."
