"""Accuracy of trainers side by side: same data, plan, folds, iterations and seed; resumes where it stopped.

    python benchmarks/accuracy.py run --data PATH/Task04_Hippocampus --work WORK --trainers nnUNetTrainer \
        nnUNetTrainerRefinedGAN --folds 0 1 2 --epochs 10 --iterations 150
    python benchmarks/accuracy.py report --work WORK --trainers nnUNetTrainer nnUNetTrainerRefinedGAN \
        --machine "..." --output benchmarks/results/NAME

Runs are ordered fold by fold with the trainers interleaved, so that a partial result is still a fair comparison.
"""

from __future__ import annotations

import argparse

from runs import Run, budget, command_line, prepare, run_all


def plan(arguments: argparse.Namespace, dataset: str) -> dict[str, list[Run]]:
    """The runs of every trainer, one per fold."""
    length = f"_{arguments.epochs}epochs_{arguments.iterations}iters"
    return {
        trainer: [Run(dataset, f"{trainer}{length}", fold, seed=fold) for fold in arguments.folds]
        for trainer in arguments.trainers
    }


def run(arguments: argparse.Namespace) -> None:
    """Prepare, then all runs that are not done yet."""
    runs = plan(arguments, prepare(arguments.data, arguments.work, arguments.dataset_id).name)
    run_all([one for of_a_fold in zip(*runs.values(), strict=True) for one in of_a_fold], arguments)


def report(arguments: argparse.Namespace) -> None:
    """Write the tables of finished runs."""
    from summary import write

    folder = next((arguments.work / "preprocessed").glob(f"Dataset{arguments.dataset_id:03d}_*"))
    heading = (
        f"Machine: {arguments.machine}. Data: {folder.name}, folds {arguments.folds} of nnU-Net's own split; "
        f"{budget(arguments)}; seed of each run = its fold. Mean over the "
        "validation cases of a fold, then mean ± standard deviation over the folds. Dice as fraction, ASSD and HD95 in "
        "mm, conventions `papers`."
    )
    write(plan(arguments, folder.name), folder, arguments.work, heading, arguments.output, arguments.trainers[0])


def options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--dataset-id", type=int, default=4)
    parser.add_argument("--trainers", nargs="+", required=True, help="the first is the one compared with")
    parser.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2])


if __name__ == "__main__":
    command_line(__doc__, options, run, report)
