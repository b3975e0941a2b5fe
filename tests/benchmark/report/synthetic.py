"""Work folders of benchmarks that never ran, with effects that are known."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from nnunet_ext.benchmark.records import (
    Attempt,
    AttemptFailure,
    Cell,
    Failure,
    Fingerprint,
    Record,
    Usage,
    attempt_path,
)
from nnunet_ext.benchmark.scores import columns_of

PLANS, CONFIGURATION = "nnUNetPlans", "3d_fullres"
FAILED, MISSING = "failed", "missing"


def fingerprint(fold: int = 0, **changes: str) -> Fingerprint:
    values = {name: f"{name}-hash" for name in ("plans", "preprocessed", "dataset_json", "labels", "metrics")}
    values |= {"split": f"split-{fold}", "nnunetv2": "2.8.1", "nnunet_ext": "0.1", "torch": "2.10", "python": "3.12"}
    return Fingerprint(**(values | {"device": "cpu"} | changes))


def write_rows(path: Path, head: Sequence[str], rows: Collection[Sequence[object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


def write_cell(
    work: Path,
    cell: Cell,
    rows: Collection[Sequence[object]],
    status: str = "finished",
    epochs: int = 6,
    seconds: float = 20.0,
    changes: Mapping[str, str] | None = None,
    parameters: int = 31_000_000,
) -> Record:
    """One cell: ``rows`` are (case, label, metric, value)."""
    failure = (
        Failure("out of memory", "CUDA out of memory. Tried to allocate 2.00 GiB", 2) if status == FAILED else None
    )
    usage = Usage(
        attempts=2 if failure else 1,
        wall_seconds=seconds * epochs + 60,
        cpu_seconds=2 * seconds * epochs,
        gpu_seconds=0.0,
        training_seconds=seconds * epochs,
        epochs=epochs,
        seconds_per_epoch=seconds,
        peak_rss_bytes=3 * 2**30,
        parameters=parameters,
        inference_seconds_per_case=2.5,
    )
    times = ("2026-11-26T10:00:00+00:00", "2026-11-26T11:00:00+00:00")
    record = Record(
        cell,
        status,
        failure,
        usage,
        fingerprint(cell.fold, **(changes or {})),
        250,
        2,
        *times,  # type: ignore[arg-type]
    )
    folder = record.write(work).parent
    for number in range(1, usage.attempts + 1):
        attempt = AttemptFailure("out of memory", f"attempt {number}: CUDA out of memory") if failure else None
        Attempt(times[0], times[1], seconds * epochs, first_epoch=0, last_epoch=epochs - 1, failure=attempt).write(
            attempt_path(folder, number)
        )
    if not failure:
        write_rows(folder / "metrics.csv", ("case", "label", "metric", "value"), rows)
        head = ("epoch", "train_loss", "val_loss", "pseudo_dice", "learning_rate", "seconds")
        rng = np.random.default_rng([cell.fold, cell.seed, len(cell.arm)])
        level = np.mean([float(r[3]) for r in rows if r[2] == "Dice" and r[3] != ""] or [0.8])
        curve = level * (1 - np.exp(-5 * np.arange(1, epochs + 1) / epochs)) + 0.01 * rng.normal(size=epochs)
        write_rows(
            folder / "curves.csv",
            head,
            [(e, 0.2 - c, 0.25 - c, c, 0.01 * (1 - e / epochs) ** 0.9, seconds) for e, c in enumerate(curve.tolist())],
        )
    return record


def write_specification(work: Path, **changes: object) -> None:
    content = {
        "name": "synthetic",
        "datasets": [{"id": 91, "name": "Dataset091_X"}],
        "configurations": [CONFIGURATION],
        "plans": [PLANS],
        "arms": {"stock": {"trainer": "nnUNetTrainer"}, "MLL": {"trainer": "nnUNetTrainerMLL"}},
        "folds": [0, 1],
        "seeds": [0],
        "metrics": ["Dice"],
        "preset": "papers",
    }
    work.mkdir(parents=True, exist_ok=True)
    (work / "benchmark.json").write_text(json.dumps(content | changes), encoding="utf-8")
    environment = {
        "python": "3.12.1",
        "packages": {"torch": "2.10", "nnunetv2": "2.8.1"},
        "machine": "x86_64",
        "cpu": "2",
    }
    (work / "environment.json").write_text(json.dumps(environment), encoding="utf-8")


def write_work(
    work: Path,
    effects: Mapping[str, float],
    datasets: Sequence[str] = ("Dataset091_X",),
    folds: int = 2,
    seeds: int = 1,
    cases: int = 6,
    labels: Sequence[str] = ("liver", "spleen"),
    metrics: Sequence[str] = ("Dice",),
    case_std: float = 0.03,
    training_std: float = 0.003,
    noise_std: float = 0.005,
    without: Mapping[tuple[str, str, int, int], str] | None = None,
    undefined: Collection[tuple[str, str]] = (),
    random_seed: int = 0,
    epochs: int = 6,
    **specification: object,
) -> None:
    """A benchmark whose arms differ by known ``effects`` on Dice.

    Dice of a case is 0.8 + effect + case (the same for all arms and seeds) + training (one draw for each cell) + noise;
    HD95 follows from it. ``cases`` is the number in each fold. ``without`` says which cells (dataset, arm, fold, seed)
    failed or are missing, ``undefined`` which (case, label) no arm has a value for.
    """
    rng = np.random.default_rng(random_seed)
    trainers = {arm: {"trainer": f"nnUNetTrainer{'' if arm == 'stock' else arm}"} for arm in effects}
    write_specification(
        work,
        **{
            "datasets": [{"id": int(name[7:10]), "name": name} for name in datasets],
            "arms": trainers,
            "folds": list(range(folds)),
            "seeds": list(range(seeds)),
            "metrics": list(metrics),
            **specification,
        },
    )
    for dataset, fold in product(datasets, range(folds)):
        hardness = rng.normal(0, case_std, size=(cases, len(labels)))
        for (number, (arm, effect)), seed in product(enumerate(effects.items()), range(seeds)):
            training = rng.normal(0, training_std)
            noise = rng.normal(0, noise_std, size=hardness.shape)
            status = (without or {}).get((dataset, arm, fold, seed), "finished")
            if status == MISSING:
                continue
            rows = []
            for i, j in np.ndindex(hardness.shape):
                case = f"case_{fold * cases + i:03d}"
                dice = min(1.0, 0.8 + effect + hardness[i, j] + training + noise[i, j])
                values = {"Dice": dice, "HD95": 60 * (1 - dice), "NSD_2mm": 1 - 0.8 * (1 - dice)}
                values |= {"TP": round(1000 * dice), "FP": round(1000 * (1 - dice)), "FN": round(1000 * (1 - dice))}
                for name in columns_of(metrics):
                    value = "" if (case, labels[j]) in undefined else repr(float(values[name]))
                    rows.append((case, labels[j], name, value))
            cell = Cell(dataset, CONFIGURATION, PLANS, arm, trainers[arm]["trainer"], fold, seed)
            write_cell(
                work,
                cell,
                rows,
                status,
                epochs,
                seconds=20.0 * (1 + 0.5 * number),
                parameters=31_000_000 + number * 10**6,
            )
