"""What the benchmark's engine costs beside plain make, and how long a run with nothing to do takes.

    python benchmarks/engine_overhead.py --work WORK --machine "2-core CPU"

200 cells of pretended trainings of no length, two at a time. ``make -j2`` runs the very same job commands in a copy of
the work folder, so the difference is that of the engine alone: its start, its graph, its choice of jobs, its records.
CPU seconds are those of all processes; they depend less than wall time on what else a machine does. Needs the extra
``benchmark``. Writes ``benchmarks/results/engine_overhead.json``.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from nnunet_ext.benchmark.graph import Graph
from nnunet_ext.benchmark.workspace import Workspace

RESULT = Path(__file__).parent / "results" / "engine_overhead.json"


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of a command and all below it."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    with (folder / "log").open("a") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": round(time.monotonic() - start, 2), "cpu_seconds": round(cpu, 2)}


def makefile(work: Path) -> str:
    """The jobs of a work folder as a makefile."""
    graph = Graph(Workspace.open(work))
    job = f"\t@{sys.executable} -m nnunet_ext.benchmark.jobs"
    lines = [f"all: {' '.join(graph.records())}"] + [f"{file}:\n{job} prepare 90" for file in graph.prepared()]
    for key in graph.cells:
        folder = f"cells/{key}"
        lines.append(f"{folder}/trained.json: | {graph.dataset(key)}\n{job} train {key}")
        lines.append(f"{folder}/record.json: {folder}/trained.json\n{job} evaluate {key}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=100, help="cells are twice as many")
    parser.add_argument("--machine", required=True)
    chosen = parser.parse_args()
    root: Path = chosen.work.absolute()
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    spec = {
        "name": "overhead",
        "datasets": [{"id": 90}],
        "configurations": ["2d"],
        "arms": {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL"},
        "folds": list(range(chosen.folds)),
        "epochs": 1,
        "resources": {"cpus": 1, "memory_gb": 0.1, "gpus": 0},
    }
    (root / "benchmark.yaml").write_text(json.dumps(spec))
    command = [str(Path(sys.executable).parent / "nnunet-ext"), "benchmark", "run", str(root / "benchmark.yaml")]
    command += ["--work", str(root / "work"), "--dummy", "0", "--cores", "2"]
    engine = timed(command, root)
    nothing = timed(command, root)
    plain = root / "plain"
    plain.mkdir()
    for name in ("benchmark.json", "run.json"):
        shutil.copy(root / "work" / name, plain / name)
    (plain / "Makefile").write_text(makefile(plain))
    make = timed(["make", "-j2", "-s"], plain)
    jobs = 4 * chosen.folds + 1
    content = {
        "machine": chosen.machine,
        "cells": 2 * chosen.folds,
        "jobs": jobs,
        "engine": engine,
        "make": make,
        "overhead_seconds_per_job": {
            name: round((engine[name] - make[name]) / jobs, 3) for name in ("wall_seconds", "cpu_seconds")
        },
        "nothing_to_do": nothing,
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    print(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
