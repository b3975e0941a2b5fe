"""Conversion of DICOM series: our converter against a plain SimpleITK series reader and writer.

    python benchmarks/convert_dicom.py --cases 8 --work WORK -o benchmarks/results/convert_dicom.json

Both read the same synthetic NIH Pancreas-CT series of full-size slices and write compressed NIfTI. The plain way is
what a user would write: series file names from GDCM, ImageSeriesReader, WriteImage with compression, case by case in
one process. Ours is ``convert_nih_pancreas`` with its workers, checks and labels. Each in a fresh process, in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

SHAPE = (100, 512, 512)

PLAIN = """
import sys
from pathlib import Path
import SimpleITK as sitk
source, target = Path(sys.argv[1]), Path(sys.argv[2])
for first in sorted(source.rglob("1-001.dcm")):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(first.parent)))
    number = next(part for part in first.parts if part.startswith("PANCREAS_"))[-4:]
    sitk.WriteImage(reader.Execute(), str(target / f"pancreas_{number}_0000.nii.gz"), True)
"""


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", default="")
    parser.add_argument("--work", type=Path, required=True, help="folder for the series and the datasets")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    source = arguments.work / "series"
    if not source.is_dir():
        from nnunet_ext.phantom.nih_pancreas import write_nih_pancreas

        numbers = range(1, arguments.cases + 1)
        write_nih_pancreas(source, numbers=numbers, extra_labels=(), shape=SHAPE, seed=arguments.seed)
    raw, plain = arguments.work / "nnUNet_raw", arguments.work / "plain"
    ours = "plain SimpleITK reader and writer, 1 process", f"nnunet-ext convert, {arguments.processes} processes"
    commands = {
        ours[0]: [sys.executable, "-c", PLAIN, str(source), str(plain)],
        ours[1]: ["nnunet-ext", "convert", "nih-pancreas", str(source), "-np", str(arguments.processes)],
        "nnunet-ext convert, 1 process": ["nnunet-ext", "convert", "nih-pancreas", str(source), "-np", "1"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    peaks: dict[str, int] = dict.fromkeys(commands, 0)
    for _ in range(arguments.repetitions):
        for name, command in commands.items():
            for folder in (raw, plain):
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
            start = time.perf_counter()
            environment = {**os.environ, "nnUNet_raw": str(raw)}
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds[name].append(time.perf_counter() - start)
            if status:
                raise SystemExit(f"{command} failed")
            peaks[name] = max(peaks[name], usage.ru_maxrss)
            written = sum(path.stat().st_size for path in (*plain.iterdir(), *raw.rglob("imagesTr/*")))
            print(f"{seconds[name][-1]:8.2f} s  {written / 1e6:8.0f} MB  {name}", flush=True)
    for folder in (raw, plain):
        shutil.rmtree(folder)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "machine": arguments.machine,
        "seed": arguments.seed,
        "data": f"{arguments.cases} series of {SHAPE[0]} to {SHAPE[0] + 4} slices of {SHAPE[1]} x {SHAPE[2]} pixels",
        "how": "wall time of the whole command, start-up included; commands interleaved; files in the page cache",
        "seconds": {name: [round(v, 2) for v in values] for name, values in seconds.items()},
        "median": {name: round(v, 2) for name, v in medians.items()},
        "times faster than plain SimpleITK": {
            name: round(medians[ours[0]] / v, 2) for name, v in medians.items() if name != ours[0]
        },
        "volume, MB": round((SHAPE[0] + 4) * SHAPE[1] * SHAPE[2] * 2 / 1e6),
        "memory of the largest process, MB": {name: round(peak / 1024) for name, peak in peaks.items()},
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
