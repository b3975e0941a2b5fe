"""What a user chooses on the command line; free of heavy imports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["link", "copy"]
Check = Literal["full", "headers"]


@dataclass(frozen=True)
class Options:
    """Choices that all converters share.

    Attributes:
        dataset_id: replaces the dataset's own number.
        mode: ``link`` leaves files that nnU-Net can read where they are; ``copy`` makes the dataset stand alone.
        processes: workers, each of which holds one case in memory.
        check: ``full`` reads every voxel once; ``headers`` trusts the voxels of files that need not be rewritten.
        dry_run: look at everything, write nothing.
        overwrite: replace a dataset of the same name.
        force: convert although something looks wrong (labels, geometry, intensities, missing cases); it is noted then.
    """

    dataset_id: int | None = None
    mode: Mode = "link"
    processes: int = 1
    check: Check = "full"
    dry_run: bool = False
    overwrite: bool = False
    force: bool = False
