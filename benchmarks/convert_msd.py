"""Conversion of a Decathlon task: nnunet-ext convert msd against nnUNetv2_convert_MSD_dataset.

    python benchmarks/convert_msd.py --gigabytes 4 --work WORK -o benchmarks/results/convert_msd.json

Writes a synthetic task of full-size CT (512 x 512 voxels a slice), then converts it with each command in turn,
several times over, in fresh processes, start-up included. The files are in the page cache for all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np

from nnunet_ext.phantom.anatomy import make_phantom
from nnunet_ext.phantom.contrast import CT, scan

SHAPE = (60, 512, 512)
LABELS = ("liver", "liver_tumour")


def write_task(folder: Path, gigabytes: float, seed: int) -> Path:
    """Write a task of at least this size; one patient scanned again and again, since only bytes matter here."""
    from dataset_conversion.formats.geometry import Geometry
    from dataset_conversion.formats.volumes import write_nifti

    task = folder / "Task77_Benchmark"
    if (task / "dataset.json").is_file():
        return task
    phantom = make_phantom(seed, SHAPE, lesions=True)
    base, label = scan(phantom, CT), phantom.labels(LABELS)
    geometry = Geometry(SHAPE[::-1], phantom.spacing[::-1], phantom.origin[::-1], (1, 0, 0, 0, 1, 0, 0, 0, 1))
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (task / name).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    size, count = 0, 0
    while size < gigabytes * 1e9:
        path = task / "imagesTr" / f"benchmark_{count:03d}.nii.gz"
        noise = rng.integers(-3, 4, SHAPE[1:], dtype=np.int16)
        write_nifti(path, base + noise, geometry)
        write_nifti(task / "labelsTr" / path.name, label, geometry)
        size += path.stat().st_size
        count += 1
    (task / "dataset.json").write_text(
        json.dumps(
            {
                "name": "Benchmark",
                "modality": {"0": "CT"},
                "labels": {"0": "background", "1": "liver", "2": "tumour"},
                "numTraining": count,
                "numTest": 0,
                "training": [],
                "test": [],
            }
        )
    )
    return task


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default="")
    parser.add_argument("--work", type=Path, required=True, help="folder for the task and the datasets")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    task = write_task(arguments.work, arguments.gigabytes, arguments.seed)
    processes = str(arguments.processes)
    ours = ["nnunet-ext", "convert", "msd", str(task), "-np", processes]
    commands = {
        "nnUNetv2_convert_MSD_dataset": ["nnUNetv2_convert_MSD_dataset", "-i", str(task), "-np", processes],
        "link, headers checked": [*ours, "--check", "headers"],
        "link, every voxel checked": ours,
        "copy, every voxel checked": [*ours, "--mode", "copy"],
    }
    folders = {name: str(arguments.work / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.repetitions):
        for name, command in commands.items():
            for folder in folders.values():
                shutil.rmtree(folder, ignore_errors=True)
                Path(folder).mkdir(parents=True)
            start = time.perf_counter()
            subprocess.run(command, env={**os.environ, **folders}, check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
            print(f"{seconds[name][-1]:8.2f} s  {name}", flush=True)
    shutil.rmtree(folders["nnUNet_raw"])
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    stock = medians["nnUNetv2_convert_MSD_dataset"]
    sizes = [path.stat().st_size for path in task.rglob("*.nii.gz")]
    result = {
        "machine": arguments.machine,
        "seed": arguments.seed,
        "data": f"{len(sizes) // 2} images of {SHAPE[::-1]} voxels and labels, {sum(sizes) / 1e9:.2f} GB compressed",
        "processes": arguments.processes,
        "how": "wall time of the whole command, start-up included; commands interleaved; files in the page cache",
        "seconds": {name: [round(v, 2) for v in values] for name, values in seconds.items()},
        "median": {name: round(v, 2) for name, v in medians.items()},
        "times faster than nnUNetv2_convert_MSD_dataset": {
            name: round(stock / v, 1) for name, v in medians.items() if name != "nnUNetv2_convert_MSD_dataset"
        },
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
