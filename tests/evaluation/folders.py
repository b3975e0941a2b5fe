"""Small folders of label maps for tests."""

import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk

LABELS = {"background": 0, "liver": 1, "spleen": 2}
SPACING = (2.5, 0.8, 0.7)  # z, y, x


def write(path: Path, array, spacing=SPACING, origin=(1.0, -2.0, 3.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing([float(s) for s in spacing[::-1]])
    image.SetOrigin(origin[: image.GetDimension()])
    sitk.WriteImage(image, str(path), True)
    return path


def label_map(seed: int, shift: int = 0, shape=(10, 24, 26)) -> np.ndarray:
    """Two boxes of random place, and ``shift`` voxels further along y."""
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.uint8)
    for label, low in ((1, 3), (2, 14)):
        z, x = rng.integers(1, 4), low + rng.integers(0, 2)
        array[z : z + 5, 5 + shift : 15 + shift, x : x + 8] = label
    return array


def dataset(root: Path, n: int = 3, shift: int = 1, labels=None, ending=".nii.gz", **extra) -> tuple[Path, Path]:
    """``labelsTr``, ``imagesTr``, ``dataset.json`` and ``predictions`` under ``root``."""
    reference, prediction = root / "labelsTr", root / "predictions"
    rng = np.random.default_rng(9)
    for i in range(n):
        array = label_map(i)
        write(reference / f"case_{i}{ending}", array)
        write(prediction / f"case_{i}{ending}", label_map(i, shift))
        write(root / "imagesTr" / f"case_{i}_0000{ending}", array * 100.0 + rng.normal(0, 9, array.shape))
    content = {
        "labels": labels or LABELS,
        "file_ending": ending,
        "channel_names": {"0": "CT"},
        "numTraining": n,
        **extra,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return reference, prediction
