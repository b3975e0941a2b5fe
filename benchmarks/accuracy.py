"""Accuracy of trainers side by side: same data, plan, folds, iterations and seed; resumes where it stopped.

    python benchmarks/accuracy.py run --data PATH/Task04_Hippocampus --work WORK --trainers nnUNetTrainer \
        nnUNetTrainerRefinedGAN --folds 0 1 2 --epochs 10 --iterations 150
    python benchmarks/accuracy.py report --work WORK --trainers nnUNetTrainer nnUNetTrainerRefinedGAN \
        --machine "..." --output benchmarks/results/NAME

Runs are ordered fold by fold with the trainers interleaved, so that a partial result is still a fair comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from runs import BATCH_SIZE, CONFIGURATION, FEATURES, PLANS, Run, add_options, prepare, run_all


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
        f"{PLANS} ({CONFIGURATION}, features {FEATURES}, batch size {BATCH_SIZE}), networks in {arguments.precision}; "
        f"{arguments.epochs} epochs of {arguments.iterations} iterations; seed of each run = its fold. Mean over the "
        "validation cases of a fold, then mean ± standard deviation over the folds. Dice as fraction, ASSD and HD95 in "
        "mm, conventions `papers`."
    )
    write(plan(arguments, folder.name), folder, arguments.work, heading, arguments.output, arguments.trainers[0])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="train and validate")
    tables = commands.add_parser("report", help="write the tables of finished runs")
    for command in (runs, tables):
        command.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
        command.add_argument("--dataset-id", type=int, default=4)
        command.add_argument("--trainers", nargs="+", required=True, help="the first is the one compared with")
        command.add_argument("--folds", nargs="+", type=int, default=[0, 1, 2])
        command.add_argument("--epochs", type=int, default=10)
        command.add_argument("--iterations", type=int, default=150)
        add_options(command)
    runs.add_argument("--data", type=Path, required=True, help="MSD task folder")
    runs.set_defaults(call=run)
    tables.add_argument("--machine", required=True, help="said in the result")
    tables.add_argument("--output", type=Path, required=True, help="file name without suffix")
    tables.set_defaults(call=report)
    arguments = parser.parse_args()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
