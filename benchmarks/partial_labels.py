"""Partially labelled data on Task04_Hippocampus: stock nnU-Net, nnUNetTrainerPartial and PaNN on the same cases.

    python benchmarks/partial_labels.py run --data PATH/Task04_Hippocampus --work WORK --seeds 0 1 2
    python benchmarks/partial_labels.py report --work WORK --machine "..." --output benchmarks/results/NAME

Each seed draws 20 (``--full``) fully labelled cases, 80 with only Anterior, 80 with only Posterior (the other label is
erased to background) and 20 to validate on, fully labelled. The arms of a seed have one plan, one validation set and
one budget:

- full only: stock nnU-Net on the 20 fully labelled cases
- naive: stock nnU-Net on all 180, background taken at its word
- partial, PaNN: nnUNetTrainerPartial, nnUNetTrainerPaNN on all 180
- upper bound: stock nnU-Net on all 180 with all labels
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from runs import Run, budget, command_line, prepare, preprocess_with_plan_of, run_all, sources_of

from nnunet_ext.core.label_sets import KEY

NUMBERS = {"full": 20, "Anterior": 80, "Posterior": 80, "validation": 20}
NAME = "HippocampusPartial"
FULL_ONLY, NAIVE, UPPER_BOUND = "full only (stock)", "naive (stock)", "upper bound (stock)"


def draw(cases: list[str], seed: int, full: int) -> dict[str, list[str]]:
    """The cases of each part of the experiment; fewer full ones are the first of them, the other parts stay."""
    order = iter(np.random.default_rng(seed).permutation(cases))
    parts = {part: [str(next(order)) for _ in range(number)] for part, number in NUMBERS.items()}
    return {part: sorted(drawn) for part, drawn in {**parts, "full": parts["full"][:full]}.items()}


def training_cases(parts: dict[str, list[str]]) -> list[str]:
    """All but those for validation."""
    return sorted(case for part, cases in parts.items() if part != "validation" for case in cases)


def name_of(first_id: int, seed: int) -> str:
    """Folder of the dataset of a seed."""
    return f"Dataset{first_id + 1 + seed:03d}_{NAME}{seed}"


def write_partial_dataset(truth: Path, name: str, parts: dict[str, list[str]]) -> Path:
    """The raw dataset of a seed: images where they are, labels erased; returns its folder.

    Args:
        truth: raw folder of the task with all labels.
        name: of the folder.
        parts: of :func:`draw`.
    """
    raw = truth.parent / name
    if (raw / "dataset.json").exists():
        return raw
    (raw / "labelsTr").mkdir(parents=True, exist_ok=True)
    content = json.loads((truth / "dataset.json").read_text())
    organs = [name for name in content["labels"] if name != "background"]
    sources = sources_of(truth)
    dataset, annotated = {}, {}
    for part, cases in parts.items():
        kept = [part] if part in organs else organs
        values = [content["labels"][name] for name in kept]
        for case in cases:
            image = sitk.ReadImage(sources[case]["label"])
            labels = sitk.GetArrayFromImage(image)
            erased = sitk.GetImageFromArray(np.where(np.isin(labels, values), labels, 0).astype(np.uint8))
            erased.CopyInformation(image)
            path = raw / "labelsTr" / f"{case}.nii.gz"
            sitk.WriteImage(erased, str(path), True)
            dataset[case] = {"images": sources[case]["images"], "label": str(path)}
            annotated[case] = kept
    content |= {"dataset": dataset, KEY: annotated, "numTraining": len(dataset)}
    (raw / "dataset.json").write_text(json.dumps(content, indent=1))
    return raw


def plan(arguments: argparse.Namespace) -> dict[str, list[Run]]:
    """The runs of every arm, one per seed."""
    truth = next((arguments.work / "preprocessed").glob(f"Dataset{arguments.first_id:03d}_*")).name
    length = f"_{arguments.epochs}epochs_{arguments.iterations}iters"
    arms: dict[str, list[Run]] = {}
    for seed in arguments.seeds:
        partial, stock = name_of(arguments.first_id, seed), f"nnUNetTrainer{length}"
        runs = {FULL_ONLY: Run(truth, stock, 2 * seed, seed), NAIVE: Run(partial, stock, 0, seed)}
        runs |= {trainer: Run(partial, f"{trainer}{length}", 0, seed) for trainer in arguments.trainers}
        runs |= {UPPER_BOUND: Run(truth, stock, 2 * seed + 1, seed)}
        for arm, one in runs.items():
            if arm not in arguments.without:
                arms.setdefault(arm, []).append(one)
    return arms


def run(arguments: argparse.Namespace) -> None:
    """Prepare all datasets, then all runs that are not done yet, seed by seed."""
    truth = prepare(arguments.data, arguments.work, arguments.first_id)
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (truth / "gt_segmentations").glob("*.nii.gz"))
    folds = []
    for seed in range(max(arguments.seeds) + 1):
        parts = draw(cases, seed, arguments.full)
        for train in (parts["full"], training_cases(parts)):
            folds.append({"train": train, "val": parts["validation"]})
    (truth / "splits_final.json").write_text(json.dumps(folds, indent=1))
    for seed in arguments.seeds:
        parts = draw(cases, seed, arguments.full)
        raw = write_partial_dataset(arguments.work / "raw" / truth.name, name_of(arguments.first_id, seed), parts)
        folder = preprocess_with_plan_of(truth, raw, arguments.work)
        fold = {"train": training_cases(parts), "val": parts["validation"]}
        (folder / "splits_final.json").write_text(json.dumps([fold], indent=1))
    runs = plan(arguments).values()
    run_all([one for of_a_seed in zip(*runs, strict=True) for one in of_a_seed], arguments)


def report(arguments: argparse.Namespace) -> None:
    """Write the tables of finished runs."""
    from summary import write

    truth = next((arguments.work / "preprocessed").glob(f"Dataset{arguments.first_id:03d}_*"))
    heading = (
        f"Machine: {arguments.machine}. Data: Task04_Hippocampus; each seed ({arguments.seeds}) draws "
        + ", ".join(f"{number} {part}" for part, number in {**NUMBERS, "full": arguments.full}.items())
        + f" cases (Anterior, Posterior: only that label annotated). {budget(arguments)}. "
        "Mean over the 20 validation cases, then mean ± standard deviation over "
        "the seeds. Dice as fraction, ASSD and HD95 in mm, conventions `papers`."
    )
    write(plan(arguments), truth, arguments.work, heading, arguments.output, FULL_ONLY)


def options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trainers", nargs="+", default=["nnUNetTrainerPartial", "nnUNetTrainerPaNN"])
    parser.add_argument("--full", type=int, default=NUMBERS["full"], help="fully labelled cases")
    parser.add_argument("--first-id", type=int, default=520, help="dataset id of the task; the next are a seed's")
    parser.add_argument(
        "--without", nargs="+", default=[], choices=[NAIVE, UPPER_BOUND], help="arms of stock nnU-Net to leave out"
    )


if __name__ == "__main__":
    command_line(__doc__, options, run, report)
