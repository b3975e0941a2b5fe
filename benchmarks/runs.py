"""Training runs of the accuracy benchmarks: what they share with each other, and nothing of what they compare.

Runs have a small plan that trains on two cores. A run draws its batches in its own process from random numbers that
depend on its seed, fold and epoch alone, so that all trainers are shown the same ones, and is a process of its own; a
killed one continues from its last epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.jobs.training import seed_everything, without_mirroring

VARIANTS = Path(__file__).parent / "trainers"


@dataclass(frozen=True)
class Plan:
    """A plan small enough for a processor.

    Attributes:
        name: of the plans file.
        configuration: nnU-Net's.
        features: of the stages, from the finest; a plan of fewer stages takes the first of them.
        batch_size: samples.
        spacing: in mm, slices first; ``None`` for nnU-Net's choice.
    """

    name: str
    configuration: str
    features: Sequence[int]
    batch_size: int
    spacing: Sequence[float] | None = None


SMALL = Plan("smallPlans", "3d_fullres", (8, 16, 32, 64), 2)
PLANS, CONFIGURATION, FEATURES, BATCH_SIZE = SMALL.name, SMALL.configuration, list(SMALL.features), SMALL.batch_size


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        dataset: folder name of the preprocessed dataset.
        trainer: with its run length.
        fold: of the dataset's split.
        seed: of all random numbers, together with the fold.
        plans: name of the plans file.
        configuration: nnU-Net's.
        mirroring: whether images are mirrored, in training and prediction.
    """

    dataset: str
    trainer: str
    fold: int
    seed: int
    plans: str = PLANS
    configuration: str = CONFIGURATION
    mirroring: bool = True

    @property
    def group(self) -> str:
        """Folder that tells runs apart which nnU-Net would put in the same place."""
        return "" if self.mirroring else f"not_mirrored/seed_{self.seed}"

    def folder(self, work: Path) -> Path:
        """Where nnU-Net puts its results."""
        name = f"{self.trainer}__{self.plans}__{self.configuration}"
        return work / "results" / self.group / self.dataset / name / f"fold_{self.fold}"

    def validation(self, work: Path) -> Path:
        """Its predictions of the validation cases."""
        return self.folder(work) / "validation"


def environment(work: Path) -> dict[str, str]:
    """The nnU-Net folders inside ``work``, and the variants of the benchmarks in reach of the trainer search."""
    folders = {
        "nnUNet_raw": work / "raw",
        "nnUNet_preprocessed": work / "preprocessed",
        "nnUNet_results": work / "results",
    }
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    # for training only: nnU-Net's planning stops where it is set
    outside = {name: value for name, value in os.environ.items() if name != "nnUNet_n_proc_DA"}
    return {**outside, **{k: str(v) for k, v in folders.items()}, "nnUNet_extTrainer": str(VARIANTS)}


def prepare(data: Path, work: Path, dataset_id: int, plan: Plan = SMALL) -> Path:
    """Convert, plan and preprocess a Decathlon task with a small plan; skips what is done.

    Returns:
        The preprocessed folder.
    """
    env = environment(work)
    preprocessed = work / "preprocessed"
    number = f"{dataset_id:03d}"
    if not list((work / "raw").glob(f"Dataset{number}_*/dataset.json")):
        subprocess.run(["nnunet-ext", "convert", "msd", str(data), "-d", number], env=env, check=True)
    done = f"{plan.name}_{plan.configuration}_is_done"
    if not list(preprocessed.glob(f"Dataset{number}_*/{done}")):
        command = ["nnUNetv2_plan_and_preprocess", "-d", number, "-c", plan.configuration, "-np", "2", "--no_pp"]
        if plan.spacing is not None:
            command += ["-overwrite_target_spacing", *map(str, plan.spacing)]
        subprocess.run([*command, "--verify_dataset_integrity"], env=env, check=True)
        folder = next(preprocessed.glob(f"Dataset{number}_*"))
        plans = json.loads((folder / "nnUNetPlans.json").read_text())
        plans["plans_name"] = plan.name
        configuration = plans["configurations"][plan.configuration]
        configuration["batch_size"] = plan.batch_size
        configuration["data_identifier"] = f"{plan.name}_{plan.configuration}"
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = list(plan.features[: arguments["n_stages"]])
        (folder / f"{plan.name}.json").write_text(json.dumps(plans, indent=1))
        command = ["nnUNetv2_preprocess", "-d", number, "-plans_name", plan.name, "-c", plan.configuration, "-np", "2"]
        subprocess.run(command, env=env, check=True)
        (folder / done).touch()
    return next(preprocessed.glob(f"Dataset{number}_*"))


def sources_of(raw: Path) -> dict[str, dict[str, Any]]:
    """Images and label of every case of a raw dataset that lists them in its dataset.json, as absolute paths."""
    listed = json.loads((raw / "dataset.json").read_text())["dataset"]
    return {
        case: {"images": [str(raw / image) for image in files["images"]], "label": str(raw / files["label"])}
        for case, files in listed.items()
    }


def preprocess_with_plan_of(source: Path, raw: Path, work: Path) -> Path:
    """Preprocess the raw dataset ``raw`` with the small plan of another, preprocessed, one; skips what is done.

    Returns:
        The preprocessed folder.
    """
    folder = work / "preprocessed" / raw.name
    done = folder / "preprocessing_is_done"
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(raw / "dataset.json", folder)
        shutil.copy(source / "dataset_fingerprint.json", folder)
        plans = json.loads((source / f"{PLANS}.json").read_text()) | {"dataset_name": raw.name}
        (folder / f"{PLANS}.json").write_text(json.dumps(plans, indent=1))
        command = ["nnUNetv2_preprocess", "-d", raw.name[7:10], "-plans_name", PLANS, "-c", CONFIGURATION, "-np", "2"]
        subprocess.run(command, env=environment(work), check=True)
        done.touch()
    return folder


def in_mixed_precision(network: Any) -> None:
    """Let a network compute in bfloat16 where nnU-Net's autocast would on a GPU, and give float32 to the losses.

    By a subclass of its own, not a wrapper: names of weights stay, and copies of the network do the same.
    """
    import torch

    stock = type(network)

    def forward(self: Any, x: torch.Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = stock.forward(self, x)
        return [o.float() for o in outputs] if isinstance(outputs, (list, tuple)) else outputs.float()

    network.__class__ = type(stock.__name__, (stock,), {"forward": forward})


def segmentation_networks(trainer: Any) -> list[Any]:
    """The networks of a trainer, each of two apart, without discriminators."""
    modules = [trainer.network, *(one.module for one in getattr(trainer, "auxiliary", {}).values())]
    parts = [
        part for module in modules for part in ([module.first, module.second] if hasattr(module, "first") else [module])
    ]
    return [part for part in parts if hasattr(part, "decoder")]


def train(run: Run, threads: int, precision: str) -> None:
    """Train from where the run stopped, then nnU-Net's final validation; in a process of its own."""
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    torch.set_num_threads(threads)
    seed_everything(run.seed, run.fold)
    device = torch.device("cpu")
    trainer = get_trainer_from_args(
        run.dataset, run.configuration, run.fold, run.trainer, run.plans, continue_training=True, device=device
    )
    if not run.mirroring:
        without_mirroring(trainer)
    trainer.initialize()
    # What is faster on a CPU, each 1.3 times, for every trainer alike
    layout = torch.contiguous_format if run.configuration == "2d" else torch.channels_last_3d
    for network in segmentation_networks(trainer):
        network.to(memory_format=layout)
        if precision == "bfloat16":
            in_mixed_precision(network)
    trainer.save_every = 1
    trainer.num_val_iterations_per_epoch = 4  # they decide nothing here: the last checkpoint counts
    maybe_load_checkpoint(trainer, continue_training=True, validation_only=False)
    start = trainer.on_train_epoch_start

    def seeded_start() -> None:
        seed_everything(run.seed, run.fold, trainer.current_epoch)
        start()

    trainer.on_train_epoch_start = seeded_start
    if trainer.current_epoch < trainer.num_epochs:
        trainer.run_training()
    trainer.perform_actual_validation(False)


Command = Callable[[Any], None]


def command_line(description: str | None, options: Command, run: Command, report: Command) -> None:
    """The commands ``run`` and ``report`` of an experiment, with the options that all experiments have.

    Args:
        description: of the script.
        options: adds those of this experiment to the parser of each command.
        run: what ``run`` does.
        report: what ``report`` does.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="prepare, train and validate")
    tables = commands.add_parser("report", help="write the tables of finished runs")
    for command in (runs, tables):
        command.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
        command.add_argument("--epochs", type=int, default=10)
        command.add_argument("--iterations", type=int, default=150)
        _add_options(command)
        options(command)
    runs.add_argument("--data", type=Path, required=True, help="folder of the Decathlon task")
    runs.set_defaults(call=run)
    tables.add_argument("--machine", required=True, help="said in the result")
    tables.add_argument("--output", type=Path, required=True, help="file name without suffix")
    tables.set_defaults(call=report)
    arguments = parser.parse_args()
    arguments.call(arguments)


def budget(arguments: argparse.Namespace) -> str:
    """Plan, precision and length of the runs, for the heading of a report."""
    return (
        f"{PLANS} ({CONFIGURATION}, features {FEATURES}, batch size {BATCH_SIZE}), networks in {arguments.precision}; "
        f"{arguments.epochs} epochs of {arguments.iterations} iterations"
    )


def _add_options(parser: Any) -> None:
    parser.add_argument("--parallel", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run")
    parser.add_argument(
        "--precision",
        choices=["float32", "bfloat16"],
        default="float32",
        help="of the networks; bfloat16 is nnU-Net's mixed precision on a processor, twice as fast where it has AMX",
    )


def run_all(runs: Sequence[Run], arguments: argparse.Namespace) -> None:
    """Do the runs that are not done yet, ``--parallel`` at a time, in their order."""
    work: Path = arguments.work
    env = environment(work) | {"nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1"}
    env |= {variable: str(arguments.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    logs = work / "logs"
    logs.mkdir(exist_ok=True)

    def one(run: Run) -> None:
        if (run.validation(work) / "summary.json").exists():
            return
        command = [sys.executable, __file__, json.dumps(asdict(run)), str(arguments.threads), arguments.precision]
        own = env | {"nnUNet_results": str(work / "results" / run.group)}
        name = "_".join((run.dataset, run.trainer, run.group.replace("/", "_"), str(run.fold)))
        with (logs / f"{name}.log").open("a") as log:
            status = subprocess.run(command, env=own, stdout=log, stderr=log, check=False).returncode
        print(f"{run}  {'done' if status == 0 else f'FAILED, see {log.name}'}", flush=True)

    with ThreadPoolExecutor(arguments.parallel) as pool:
        list(pool.map(one, runs))


if __name__ == "__main__":
    settings, threads, precision = sys.argv[1:]
    train(Run(**json.loads(settings)), int(threads), precision)
