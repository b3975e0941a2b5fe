"""Distance maps of a patch: ours against a transform of every class over the whole patch, with scipy and with edt.

    python benchmarks/distance_maps.py --machine "..." -o benchmarks/results/distance_maps.json

The patch is a synthetic abdomen with the 13 organs of BTCV. Interleaved in one process, one thread, as in a loading
worker; wall time and processor time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import edt
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.phantom.anatomy import BTCV_LABELS, make_phantom

ORGANS = [name for name in BTCV_LABELS if name != "background"]


def naive(transform: Callable[[NDArray], NDArray], labels: NDArray, classes: list[int]) -> NDArray[np.float32]:
    """Eq. 7 of every class, from two transforms of the whole patch, as a user would write it."""
    maps = []
    for label in classes:
        inside = labels == label
        border = inside & ~binary_erosion(inside, border_value=1)
        maps.append(np.where(inside, -1, 1) * transform(~border) if border.any() else np.zeros(labels.shape))
    return np.stack(maps).astype(np.float32)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patch", type=int, nargs=3, default=[128, 128, 128])
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--machine", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    phantom = make_phantom(0, tuple(arguments.patch))
    labels, spacing = phantom.labels(ORGANS).astype(np.int16), phantom.spacing
    classes = list(range(1, len(ORGANS) + 1))
    ways = {
        "ours": lambda: signed_distance_maps(labels[None], spacing, classes).numpy(),
        "edt, whole patch": lambda: naive(lambda m: edt.edt(m, anisotropy=spacing, parallel=1), labels, classes),
        "scipy, whole patch": lambda: naive(lambda m: distance_transform_edt(m, sampling=spacing), labels, classes),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    made = {}
    for _ in range(arguments.repetitions):
        for name, way in ways.items():
            start, processor_start = time.perf_counter(), time.process_time()
            made[name] = way()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - processor_start)
    exact, ours = made["scipy, whole patch"], made["ours"].astype(np.float32)
    median = {name: float(np.median(values)) for name, values in processor.items()}
    result = {
        "machine": arguments.machine,
        "patch": arguments.patch,
        "spacing": spacing,
        "classes in the patch": int(len(np.unique(labels)) - 1),
        "median wall seconds": {name: round(float(np.median(values)), 4) for name, values in wall.items()},
        "median processor seconds": {name: round(value, 4) for name, value in median.items()},
        "times the processor time of ours": {name: round(value / median["ours"], 1) for name, value in median.items()},
        "largest difference from exact, mm": {
            "inside and up to 10 mm outside": round(float(np.abs(ours - exact)[exact <= 10].max()), 3),
            "anywhere": round(float(np.abs(ours - exact).max()), 3),
            "share of it in the distance, at most": round(float(((ours - exact) / exact.clip(10)).max()), 3),
        },
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
