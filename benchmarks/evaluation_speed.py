"""Speed and memory of the surface metrics, side by side with MedPy and MONAI in one run.

    python benchmarks/evaluation_speed.py [--quick] [--output benchmarks/results/evaluation_speed]

Needs the extra ``oracles``. Contestants take turns; the minimum of the repetitions counts. Linux only (memory).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.surface import surface_distances
from nnunet_ext.evaluation.targets import LabelScheme, Target

MACHINE = "2-core CPU (Intel Xeon), 24 GiB"
SEED = 0
Labels = npt.NDArray[np.uint8]


def ellipsoid(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> npt.NDArray[np.bool_]:
    """Mask of an ellipsoid, in voxels."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radii, strict=True)) <= 1


def liver_pair() -> tuple[Labels, Labels, tuple[float, ...]]:
    """Two liver-sized objects with lobes, about 7 million voxels and 157,000 border voxels each."""
    shape = (256, 512, 512)
    pair = []
    for shift in (0, 3):
        body = ellipsoid(shape, (128 + shift, 256 + shift, 222), (82, 126, 146))
        body |= ellipsoid(shape, (120, 240 + shift, 330 + shift), (50, 84, 90))
        pair.append(body.view(np.uint8))
    return pair[0], pair[1], (1.0, 0.75, 0.75)


def far_pair() -> tuple[Labels, Labels, tuple[float, ...]]:
    """Two objects in opposite corners."""
    shape = (192, 256, 256)
    first, second = (ellipsoid(shape, c, (40, 50, 50)) for c in ((45, 55, 55), (146, 200, 200)))
    return first.view(np.uint8), second.view(np.uint8), (1.0, 0.8, 0.8)


def noise_pair(density: float = 0.3) -> tuple[Labels, Labels, tuple[float, ...]]:
    """Two random masks: nearly every voxel is border."""
    rng = np.random.default_rng(SEED)
    first, second = (rng.random((96, 160, 160), dtype=np.float32) < density for _ in range(2))
    return first.view(np.uint8), second.view(np.uint8), (2.0, 0.8, 0.8)


def sixty_labels() -> tuple[Labels, Labels, tuple[float, ...]]:
    """Maps of 60 organs, the second one shifted."""
    shape = (200, 240, 240)
    rng = np.random.default_rng(SEED)
    ref = np.zeros(shape, np.uint8)
    for label in range(1, 61):
        radii = rng.uniform(6, 26, 3)
        centre = [rng.uniform(r, n - r) for r, n in zip(radii, shape, strict=True)]
        box = tuple(slice(max(int(c - r), 0), int(c + r) + 2) for c, r in zip(centre, radii, strict=True))
        local = tuple(c - s.start for c, s in zip(centre, box, strict=True))
        part = ref[box]
        part[ellipsoid(part.shape, local, tuple(radii))] = label
    return ref, np.roll(ref, (1, 2, 2), (0, 1, 2)), (1.5, 1.0, 1.0)


CASES: dict[str, Callable[[], tuple[Labels, Labels, tuple[float, ...]]]] = {
    "liver": liver_pair,
    "far apart": far_pair,
    "noise 30 %": noise_pair,
    "noise 2 %": lambda: noise_pair(0.02),
    "60 labels": sixty_labels,
}


def scheme_of(labels: Labels) -> LabelScheme:
    """All labels of a map as targets."""
    values = range(1, int(labels.max()) + 1)
    return LabelScheme(tuple(Target(str(v), str(v), (v,)) for v in values), (0, *values))


Seconds = dict[str, dict[str, list[float]]]


def take_turns(contestants: dict[str, Callable[[], Any]], repetitions: int) -> Seconds:
    """Wall and processor seconds of every repetition; contestants alternate so that other load hits all alike."""
    seconds: Seconds = {name: {"wall": [], "cpu": []} for name in contestants}
    for _ in range(repetitions):
        for name, run in contestants.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            seconds[name]["cpu"].append(round(time.process_time() - cpu, 3))
            seconds[name]["wall"].append(round(time.perf_counter() - wall, 3))
    return seconds


def best_of(seconds: Seconds, clock: str) -> dict[str, float]:
    """Minimum over repetitions, the figure least disturbed by other load."""
    return {name: min(clocks[clock]) for name, clocks in seconds.items()}


def against_libraries(repetitions: int) -> dict[str, Any]:
    """All our metrics of the liver pair against one metric of each library."""
    import torch
    from medpy.metric.binary import assd
    from monai.metrics import compute_hausdorff_distance

    warnings.filterwarnings("ignore")
    ref, pred, spacing = liver_pair()
    scheme = scheme_of(ref)
    tensors = [torch.from_numpy(m)[None, None] for m in (pred, ref)]
    ours_name, monai_name, medpy_name = "ours, all metrics", "MONAI, HD95 alone", "MedPy, ASSD alone"
    contestants: dict[str, Callable[[], Any]] = {
        ours_name: lambda: evaluate_pair(ref, pred, spacing, scheme),
        "ours, all metrics, two threads": lambda: evaluate_pair(ref, pred, spacing, scheme, workers=2),
        monai_name: lambda: compute_hausdorff_distance(
            *tensors, include_background=True, percentile=95, spacing=list(spacing)
        ),
    }
    seconds: Seconds = {
        **take_turns(contestants, repetitions),
        **take_turns({medpy_name: lambda: assd(pred, ref, spacing)}, 1),
    }
    found = evaluate_pair(ref, pred, spacing, scheme)["1"].metrics
    ratios = {}
    for clock in ("wall", "cpu"):
        best = best_of(seconds, clock)
        for other in (monai_name, medpy_name):
            ratios[f"{other} over ours, {clock}"] = round(best[other] / best[ours_name], 1)
    return {
        "voxels": [int(ref.sum()), int(pred.sum())],
        "seconds": seconds,
        "ratios": ratios,
        "HD95 ours, MONAI": [found["HD95"], float(contestants[monai_name]())],
    }


def against_each_method(name: str, repetitions: int) -> dict[str, Any]:
    """The automatic choice against the tree and the transform alone."""
    ref, pred, spacing = CASES[name]()
    labels = range(1, int(ref.max()) + 1)

    def crop(value: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        either = np.argwhere((ref == value) | (pred == value))
        box = tuple(slice(max(a - 1, 0), b + 2) for a, b in zip(either.min(0), either.max(0), strict=True))
        return ref[box] == value, pred[box] == value

    masks = [crop(v) for v in labels]
    contestants = {
        method: lambda method=method: [surface_distances(r, p, spacing, method=method) for r, p in masks]  # type: ignore[misc]
        for method in ("tree", "transform", "auto")
    }
    seconds = take_turns(contestants, repetitions)
    result: dict[str, Any] = {}
    for clock in ("wall", "cpu"):
        best = best_of(seconds, clock)
        result[clock] = best | {"auto over best": round(best["auto"] / min(best["tree"], best["transform"]), 2)}
    return result


def peak_memory(name: str) -> float:
    """Peak memory of a process evaluating a pair, beyond its start, over the size of the two label maps."""
    ref, pred, spacing = CASES[name]()
    scheme = scheme_of(ref)
    evaluate_pair(ref[:8, :8, :8], pred[:8, :8, :8], spacing, scheme)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the masks
    before = _status("VmRSS")
    evaluate_pair(ref, pred, spacing, scheme)
    maps = ref.nbytes + pred.nbytes
    return round((maps + _status("VmHWM") - before) / maps, 2)


def traced_memory(name: str) -> float:
    """The same by every allocation counted, whatever the process reuses of the memory it has; slower."""
    ref, pred, spacing = CASES[name]()
    scheme = scheme_of(ref)
    evaluate_pair(ref[:8, :8, :8], pred[:8, :8, :8], spacing, scheme)
    tracemalloc.start()
    evaluate_pair(ref, pred, spacing, scheme)
    maps = ref.nbytes + pred.nbytes
    return round((maps + tracemalloc.get_traced_memory()[1]) / maps, 2)


def memory(context: Any) -> dict[str, dict[str, float]]:
    """Both measures of all cases, each in a process of its own."""
    with context.Pool(1, maxtasksperchild=1) as pool:
        return {
            "peak memory over label maps": {name: pool.apply(peak_memory, (name,)) for name in CASES},
            "traced memory over label maps": {name: pool.apply(traced_memory, (name,)) for name in CASES},
        }


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def folder_of_cases(processes: int, n: int) -> float:
    """Seconds for a folder of compressed label maps of 13 organs."""
    import SimpleITK as sitk

    from nnunet_ext.evaluation.folders import evaluate_folders

    ref, pred, spacing = sixty_labels()
    ref, pred = np.where(ref <= 13, ref, 0), np.where(pred <= 13, pred, 0)
    with tempfile.TemporaryDirectory() as folder:
        for side, labels in (("labels", ref), ("predictions", pred)):
            (Path(folder) / side).mkdir()
            image = sitk.GetImageFromArray(labels.astype(np.uint8))
            image.SetSpacing(spacing[::-1])
            first = Path(folder) / side / "case_000.nii.gz"
            sitk.WriteImage(image, str(first), True)
            for i in range(1, n):
                os.link(first, first.with_name(f"case_{i:03d}.nii.gz"))
        dataset = {"labels": {"background": 0} | {str(v): v for v in range(1, 14)}, "file_ending": ".nii.gz"}
        start = time.perf_counter()
        evaluate_folders(Path(folder) / "labels", Path(folder) / "predictions", dataset, num_processes=processes)
        return round(time.perf_counter() - start, 2)


def main() -> None:
    """Run all parts and write a JSON file and a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/evaluation_speed"))
    parser.add_argument("--quick", action="store_true", help="one repetition, no libraries, 8 cases in the folder")
    parser.add_argument("--memory", action="store_true", help="memory alone, into the result that is there")
    options = parser.parse_args()
    if options.memory:
        output = options.output.with_suffix(".json")
        result = json.loads(output.read_text()) | memory(multiprocessing.get_context("spawn"))
        output.write_text(json.dumps(result, indent=2) + "\n")
        return
    repetitions = 1 if options.quick else 6
    n_cases = 8 if options.quick else 60
    load_before = os.getloadavg()[0]
    result = {"machine": MACHINE, "seed": SEED, "repetitions": repetitions}
    if not options.quick:
        result["liver pair, 256x512x512, 1.0x0.75x0.75 mm"] = against_libraries(repetitions)
    result["automatic choice"] = {name: against_each_method(name, min(repetitions, 3)) for name in CASES}
    context = multiprocessing.get_context("spawn")
    result |= memory(context)
    with ProcessPoolExecutor(1, mp_context=context) as fresh:  # as the command has it, without the libraries
        folders = {f"-np {n}": fresh.submit(folder_of_cases, n, n_cases).result() for n in (1, 2)}
    result[f"folder of {n_cases} cases, seconds"] = folders
    result["load average before and after"] = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
