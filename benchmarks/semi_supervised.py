"""Unlabelled images on Task04_Hippocampus: stock nnU-Net, SD-Net without and with its unlabelled term.

    python benchmarks/semi_supervised.py run --data PATH/Task04_Hippocampus --work WORK --labelled 0.2 --seeds 0 1 2
    python benchmarks/semi_supervised.py report --work WORK --machine "..." --output benchmarks/results/NAME

Each seed draws 160 cases for training, of which the given share keeps its labels while the others go to ``imagesUn``,
and 40 to validate on. The arms of a seed have one plan, one validation set and the same number of iterations:

- labelled (stock): stock nnU-Net on the labelled part, the same dataset
- the trainers: nnUNetTrainerSDNetLabelled (both networks, labelled part alone), nnUNetTrainerSDNet;
  NAME@N runs N iterations an epoch in place of --iterations, so that nnUNetTrainer@200 is stock trained longer
- all labels (stock): stock nnU-Net on all 160 with their labels, left out with --no-upper-bound

With ``--labelled 1.0`` nothing is unlabelled: give ``--trainers nnUNetTrainerSDNetLabelled``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
from runs import (
    CONFIGURATION,
    PLANS,
    Run,
    budget,
    command_line,
    environment,
    prepare,
    preprocess_with_plan_of,
    run_all,
    sources_of,
)

TRAINING, VALIDATION = 160, 40
TRUTH_ID = 530  # the task itself, for the arm with all labels
NAME = "HippocampusLabelled"
LABELLED, ALL_LABELS = "labelled (stock)", "all labels (stock)"


def draw(cases: list[str], share: float, seed: int) -> dict[str, list[str]]:
    """The cases of each part of the experiment; with a larger share more of the same cases are labelled."""
    order = [str(case) for case in np.random.default_rng(seed).permutation(cases)]
    training, labelled = order[VALIDATION : VALIDATION + TRAINING], round(share * TRAINING)
    return {
        "validation": sorted(order[:VALIDATION]),
        "labelled": sorted(training[:labelled]),
        "unlabelled": sorted(training[labelled:]),
    }


def name_of(share: float, seed: int) -> str:
    """Folder of the dataset of a share and seed."""
    percent = round(100 * share)
    return f"Dataset{TRUTH_ID + 1 + percent + 101 * seed:03d}_{NAME}{percent}Seed{seed}"


def write_dataset(truth: Path, share: float, seed: int, parts: dict[str, list[str]]) -> Path:
    """The raw dataset: labelled cases where they are, unlabelled images as links; returns its folder."""
    raw = truth.parent / name_of(share, seed)
    if (raw / "dataset.json").exists():
        return raw
    content = json.loads((truth / "dataset.json").read_text())
    sources = sources_of(truth)
    (raw / "imagesUn").mkdir(parents=True, exist_ok=True)
    for case in parts["unlabelled"]:
        link = raw / "imagesUn" / f"{case}_0000.nii.gz"
        if not link.exists():
            link.symlink_to(sources[case]["images"][0])
    dataset = {case: sources[case] for part in ("labelled", "validation") for case in parts[part]}
    content |= {"dataset": dataset, "numTraining": len(dataset)}
    (raw / "dataset.json").write_text(json.dumps(content, indent=1))
    return raw


def plan(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs of every arm, one per seed."""
    truth = next((arguments.work / "preprocessed").glob(f"Dataset{TRUTH_ID}_*")).name

    def length(iterations: object = arguments.iterations) -> str:
        return f"_{arguments.epochs}epochs_{iterations}iters"

    arms: dict[str, list[Run]] = {}
    for seed in arguments.seeds:
        if arguments.labelled < 1:
            dataset, fold = name_of(arguments.labelled, seed), 0
            arms.setdefault(LABELLED, []).append(Run(dataset, f"nnUNetTrainer{length()}", fold, seed))
        else:
            dataset, fold = truth, seed
        for trainer in arguments.trainers:
            name, _, iterations = trainer.partition("@")
            run = Run(dataset, f"{name}{length(iterations or arguments.iterations)}", fold, seed)
            arms.setdefault(trainer, []).append(run)
        if arguments.upper_bound or arguments.labelled == 1:
            arms.setdefault(ALL_LABELS, []).append(Run(truth, f"nnUNetTrainer{length()}", seed, seed))
    return arms


def run(arguments: argparse.Namespace) -> None:
    """Prepare all datasets, then all runs that are not done yet, seed by seed."""
    truth = prepare(arguments.data, arguments.work, TRUTH_ID)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (truth / "gt_segmentations").glob("*.nii.gz"))
    folds = []
    for seed in range(max(arguments.seeds) + 1):
        parts = draw(cases, arguments.labelled, seed)
        folds.append({"train": sorted(parts["labelled"] + parts["unlabelled"]), "val": parts["validation"]})
    (truth / "splits_final.json").write_text(json.dumps(folds, indent=1))
    for seed in arguments.seeds if arguments.labelled < 1 else []:
        parts = draw(cases, arguments.labelled, seed)
        raw = write_dataset(arguments.work / "raw" / truth.name, arguments.labelled, seed, parts)
        folder = preprocess_with_plan_of(truth, raw, arguments.work)
        fold = {"train": parts["labelled"], "val": parts["validation"]}
        (folder / "splits_final.json").write_text(json.dumps([fold], indent=1))
        command = ["nnunet-ext", "preprocess-unlabelled", "-d", raw.name[7:10], "-c", CONFIGURATION, "-p", PLANS]
        subprocess.run(command, env=environment(arguments.work), check=True)
    runs = plan(arguments).values()
    run_all([one for of_a_seed in zip(*runs, strict=True) for one in of_a_seed], arguments)


def report(arguments: argparse.Namespace) -> None:
    """Write the tables of finished runs."""
    from summary import write

    truth = next((arguments.work / "preprocessed").glob(f"Dataset{TRUTH_ID}_*"))
    heading = (
        f"Machine: {arguments.machine}. Data: Task04_Hippocampus; each seed ({arguments.seeds}) draws {TRAINING} cases "
        f"for training, {100 * arguments.labelled:g} % of them labelled, and {VALIDATION} to validate on. "
        f"{budget(arguments)}. Mean over the validation cases, then mean ± standard deviation over the seeds. "
        "Dice as fraction, ASSD and HD95 in mm, conventions `papers`."
    )
    reference = LABELLED if arguments.labelled < 1 else ALL_LABELS
    write(plan(arguments), truth, arguments.work, heading, arguments.output, reference)


def options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--seeds", nargs="+", type=int, choices=range(4), default=[0, 1, 2])
    parser.add_argument("--labelled", type=float, default=0.2, help="share of the training cases with labels")
    parser.add_argument("--upper-bound", action=argparse.BooleanOptionalAction, default=True, help="all labels (stock)")
    parser.add_argument("--trainers", nargs="*", default=["nnUNetTrainerSDNetLabelled", "nnUNetTrainerSDNet"])


if __name__ == "__main__":
    command_line(__doc__, options, run, report)
