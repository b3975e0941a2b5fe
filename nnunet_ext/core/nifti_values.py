"""Values of a NIfTI file that are no numbers. ITK reads NaN and infinity there as 0, in other formats as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def count_not_finite(values: np.ndarray) -> int:
    """How many values are NaN or infinite."""
    return int(values.size - np.count_nonzero(np.isfinite(values)))


def nifti_not_finite(path: Path) -> int:
    """How many values of a NIfTI file are NaN or infinite; of whole numbers, which are neither, none is read."""
    import nibabel

    image: Any = nibabel.load(path)
    return count_not_finite(np.asanyarray(image.dataobj)) if image.get_data_dtype().kind in "fc" else 0
