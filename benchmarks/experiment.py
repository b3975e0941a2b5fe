"""Experiments: trainers side by side on the same data, plan, folds, random numbers and iterations; resumable.

    python benchmarks/experiment.py run benchmarks/experiments/NAME.yaml --data PATH/Task91_ChaosT2Spir --work WORK
    python benchmarks/experiment.py report benchmarks/experiments/NAME.yaml --work WORK --machine "..."

An experiment is a file of :class:`Experiment`'s fields. Its runs go fold by fold with the arms interleaved, so that a
partial result is a fair comparison. Experiments that name the same run share it. ``report`` writes
``benchmarks/results/NAME`` with suffixes .csv (every case), .md and .png (made from the CSV).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from runs import Plan, Run, prepare, run_all

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Arm:
    """What is compared.

    Attributes:
        trainer: its name, without a run length.
        iterations: per epoch, where they differ from those of the experiment.
        folds: those it runs in, where they differ from those of the experiment.
    """

    trainer: str
    iterations: int | None = None
    folds: Sequence[int] | None = None


@dataclass(frozen=True)
class Experiment:
    """One comparison.

    Attributes:
        question: that it answers, a sentence.
        task: folder name of the Decathlon task.
        dataset_id: nnU-Net's.
        plan: the plan of all arms.
        arms: by the name they have in the tables; the first is the one compared with.
        epochs: of every run.
        iterations: per epoch.
        folds: of nnU-Net's own split.
        seeds: for each fold, a run with each.
        precision: of the networks, "bfloat16" (nnU-Net's mixed precision) or "float32"; losses are in float32.
        mirroring: whether images are mirrored, in training and prediction; without, like organs of the two sides are
            told apart early.
        merged: classes scored as one besides, by the name of what they form.
        answer: what the result says, a paragraph.
    """

    question: str
    task: str
    dataset_id: int
    plan: Plan
    arms: Mapping[str, Arm]
    epochs: int
    iterations: int
    folds: Sequence[int] = (0, 1, 2)
    seeds: Sequence[int] = (0,)
    precision: str = "bfloat16"
    mirroring: bool = True
    merged: Mapping[str, Sequence[str]] = field(default_factory=dict)
    answer: str = ""

    def runs(self, dataset: str) -> dict[str, list[Run]]:
        """The runs of every arm, seed by seed and fold by fold."""
        return {
            name: [
                Run(
                    dataset,
                    f"{arm.trainer}_{self.epochs}epochs_{arm.iterations or self.iterations}iters",
                    fold,
                    seed,
                    self.plan.name,
                    self.plan.configuration,
                    self.mirroring,
                )
                for seed in self.seeds
                for fold in self.folds
                if arm.folds is None or fold in arm.folds
            ]
            for name, arm in self.arms.items()
        }

    def in_order(self, dataset: str) -> list[Run]:
        """All runs in the order they are done in: the arms interleaved."""
        runs = [run for of_an_arm in self.runs(dataset).values() for run in of_an_arm]
        return sorted(dict.fromkeys(runs), key=lambda run: (self.seeds.index(run.seed), self.folds.index(run.fold)))

    def heading(self) -> str:
        """Data, plan and budget, for readers."""
        plan = self.plan
        spacing = f" at {' x '.join(f'{s:g}' for s in plan.spacing)} mm" if plan.spacing else ""
        mirrored = "" if self.mirroring else "Images are not mirrored, in training or prediction. "
        longer = "".join(
            f" ({name}: {arm.iterations})" for name, arm in self.arms.items() if arm.iterations is not None
        )
        return (
            f"Data: {self.task}, folds {list(self.folds)} of nnU-Net's own split. Plan: {plan.configuration}{spacing}, "
            f"features {list(plan.features)}, batch size {plan.batch_size}; networks in {self.precision}. {mirrored}"
            f"Runs of {self.epochs} epochs of {self.iterations} iterations{longer}, seeds {list(self.seeds)} in each "
            "fold, the last checkpoint counts. All arms of a fold and seed start from the same weights and draw from "
            "the same random numbers."
        )


def load(file: Path) -> Experiment:
    """Read an experiment file."""
    content: dict[str, Any] = yaml.safe_load(file.read_text())
    content["plan"] = Plan(**content["plan"])
    content["arms"] = {name: Arm(arm) if isinstance(arm, str) else Arm(**arm) for name, arm in content["arms"].items()}
    return Experiment(**content)


def run(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Prepare, then all runs that are not done yet."""
    arguments.precision = experiment.precision
    folder = prepare(arguments.data, arguments.work, experiment.dataset_id, experiment.plan)
    run_all(experiment.in_order(folder.name), arguments)


def report(arguments: argparse.Namespace, experiment: Experiment) -> None:
    """Write the tables and the figure of finished runs."""
    from experiment_report import score, write

    output = RESULTS / arguments.experiment.stem
    folder = next((arguments.work / "preprocessed").glob(f"Dataset{experiment.dataset_id:03d}_*"))
    scores = score(experiment.runs(folder.name), folder, arguments.work, experiment.merged)
    scores.to_csv(output.with_suffix(".csv"), index=False)
    heading = f"{experiment.question}\n\nMachine: {arguments.machine}. {experiment.heading()}"
    write(output, heading, experiment.answer, experiment.merged)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="prepare, train and validate")
    runs.add_argument("--data", type=Path, required=True, help="folder of the Decathlon task")
    runs.add_argument("--parallel", type=int, default=2, help="runs at a time")
    runs.add_argument("--threads", type=int, default=1, help="threads of each run")
    runs.set_defaults(call=run)
    tables = commands.add_parser("report", help="write the tables of finished runs")
    tables.add_argument("--machine", required=True, help="said in the result")
    tables.set_defaults(call=report)
    for command in (runs, tables):
        command.add_argument("experiment", type=Path, help="YAML file")
        command.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
    arguments = parser.parse_args()
    arguments.call(arguments, load(arguments.experiment))


if __name__ == "__main__":
    main()
