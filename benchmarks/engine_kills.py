"""Kills of a whole benchmark at random moments, beside an undisturbed run of the same cells.

    python benchmarks/engine_kills.py --work WORK --kills 20 --machine "2-core CPU"

Twelve cells of real trainings on a small phantom: two trainers, three folds, two seeds, one core each, a checkpoint
after every epoch. The driver, Snakemake, jobs, trainings and their workers are killed at once (SIGKILL), again and
again; then the benchmark is run to its end. No epoch may be trained twice, and the scores must be those of the
undisturbed run byte for byte. Needs the extra ``benchmark``. Writes ``benchmarks/results/engine_kills.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from nnunet_ext.benchmark.matrix import cells_of
from nnunet_ext.benchmark.records import METRICS, read_attempts, read_records
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.phantom.msd import write_msd

RESULT = Path(__file__).parent / "results" / "engine_kills.json"
SPEC = {
    "name": "kills",
    "datasets": [{"id": 90}],
    "configurations": ["2d"],
    "plans": [{"name": "tinyPlans", "from": "nnUNetPlans", "batch_size": 2, "features": [4, 8, 8, 8, 8]}],
    "arms": {"stock": "nnUNetTrainer", "MLL": "nnUNetTrainerMLL"},
    "folds": [0, 1, 2],
    "seeds": [0, 1],
    "epochs": 4,
    "iterations": 2,
    "save_every": 1,
    "resources": {"cpus": 1, "memory_gb": 1, "gpus": 0},
}


def prepare(root: Path) -> dict[str, str]:
    """The phantom, planned; gives the environment of all that follows."""
    folders = {name: str(root / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    environment = {**os.environ, **folders, "nnUNet_def_n_proc": "1"}
    environment.pop("nnUNet_n_proc_DA", None)
    if (root / "ready").exists():
        return environment
    for folder in folders.values():
        Path(folder).mkdir(parents=True, exist_ok=True)
    layout = write_msd(root, cases=6, organs=("liver", "spleen"), shape=(20, 40, 40), spacing=(8.0, 8.0, 8.0))
    for command in (
        ["nnunet-ext", "convert", "msd", layout.folder, "-np", "1"],
        ["nnUNetv2_plan_and_preprocess", "-d", "90", "-c", "2d", "-np", "1"],
    ):
        subprocess.run([Path(sys.executable).parent / command[0], *command[1:]], env=environment, check=True)
    (root / "ready").touch()
    return environment


def start(file: Path, work: Path, environment: dict[str, str], log: Path) -> psutil.Popen:
    """A run of the benchmark."""
    command = [Path(sys.executable).parent / "nnunet-ext", "benchmark", "run", file, "--work", work, "--cores", "2"]
    with log.open("a") as output:
        return psutil.Popen([*map(str, command)], env=environment, stdout=output, stderr=output)


def kill_tree(driver: psutil.Popen) -> int:
    """Kill a process and all below it; gives how many."""
    tree = [*driver.children(recursive=True), driver]
    for process in tree:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    driver.wait()
    return len(tree)


def facts(work: Path) -> dict[str, Any]:
    """Scores of all cells and the epochs of all attempts."""
    cells = cells_of(Workspace.open(work).spec)
    finished = {record.cell for record in read_records(work) if record.status == "finished"}
    epochs = {}
    for cell in cells:
        spans = [a for a in read_attempts(cell.folder(work)).values() if a.first_epoch is not None]
        epochs[str(cell)] = [e for a in spans for e in range(a.first_epoch or 0, (a.last_epoch or 0) + 1)]
    return {
        "complete": finished == set(cells),
        "attempts": sum(len(read_attempts(cell.folder(work))) for cell in cells),
        "twice": sum(len(found) - len(set(found)) for found in epochs.values()),
        "scores": {str(c): (c.folder(work) / METRICS).read_bytes() for c in cells if c in finished},
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--shortest", type=float, default=5.0, help="seconds from a start to its kill")
    parser.add_argument("--longest", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", required=True)
    chosen = parser.parse_args()
    root: Path = chosen.work.absolute()
    root.mkdir(parents=True, exist_ok=True)
    environment = prepare(root)
    file = root / "benchmark.yaml"
    file.write_text(json.dumps(SPEC))
    log = root / "log"
    undisturbed = root / "undisturbed"
    assert start(file, undisturbed, environment, log).wait() == 0, log.read_text()
    expected = facts(undisturbed)
    generator = random.Random(chosen.seed)
    kills, rounds, moments = 0, [], []
    while kills < chosen.kills:
        work = root / f"killed_{len(rounds)}"
        shutil.rmtree(work, ignore_errors=True)
        own = 0
        while True:
            driver = start(file, work, environment, log)
            moment = generator.uniform(chosen.shortest, chosen.longest)
            try:
                code = driver.wait(timeout=moment if kills < chosen.kills else None)
            except psutil.TimeoutExpired:
                killed = kill_tree(driver)
                kills, own = kills + 1, own + 1
                moments.append(round(moment, 1))
                print(f"kill {kills} after {moment:.1f} s, {killed} processes", flush=True)
                time.sleep(0.2)
                continue
            assert code == 0, log.read_text()
            break
        found = facts(work)
        rounds.append(
            {
                "kills": own,
                "complete": found["complete"],
                "attempts": found["attempts"],
                "epochs_trained_twice": found["twice"],
                "scores_equal_byte_for_byte": found["scores"] == expected["scores"],
            }
        )
        print(rounds[-1], flush=True)
    content = {
        "machine": chosen.machine,
        "cells": len(expected["scores"]),
        "kills": kills,
        "seconds_from_start_to_kill": moments,
        "rounds": rounds,
    }
    RESULT.write_text(json.dumps(content, indent=2) + "\n")
    assert all(r["complete"] and not r["epochs_trained_twice"] and r["scores_equal_byte_for_byte"] for r in rounds)


if __name__ == "__main__":
    main()
