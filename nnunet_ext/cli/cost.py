"""``nnunet-ext cost`` and ``nnunet-ext plan-for``: what a training step needs, and plans that fit it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from nnunet_ext.cli.plans_files import new_plans_file, read_json
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_text

STOCK = "nnUNetTrainer"


def run_cost(dataset: str, configuration: str, plans_name: str, trainers: Sequence[str]) -> None:
    """Print memory, arithmetic and parameters of a training step, and their ratios to stock nnU-Net's.

    Args:
        dataset: its number or name.
        configuration: of the plans.
        plans_name: file name of the plans, without ending.
        trainers: their names; one that cannot be simulated is said to be so, after the others.

    Raises:
        UserError: a file, a trainer or the configuration is missing, or a step cannot be simulated.
    """
    _, plans, dataset_json = _read(dataset, plans_name)
    if configuration not in plans["configurations"]:
        known = ", ".join(plans["configurations"])
        raise UserError(f"{plans_name} has no configuration {configuration} (it has {known}): name one with -c.")
    classes = {name: _trainer(name) for name in (STOCK, *trainers)}

    from nnunet_ext.core.errors import together
    from nnunet_ext.training.cost.measure import GIB, cost_of_step

    console, problems = Console(), []
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("trainer", no_wrap=True)
    for heading in ("GiB", "", "TFLOPs", "", "M weights", ""):
        table.add_column(heading, justify="right")
    with console.status("Simulating..."):
        stock = cost_of_step(classes.pop(STOCK), plans, configuration, dataset_json)
        costs = {STOCK: stock}
        for name, found in classes.items():
            try:
                costs[name] = cost_of_step(found, plans, configuration, dataset_json)
            except UserError as error:
                problems.append(error)
    for name, cost in costs.items():
        table.add_row(
            name,
            f"{cost.memory / GIB:.2f}",
            f"x{cost.memory / stock.memory:.2f}",
            f"{cost.flops / 1e12:.3g}",
            f"x{cost.flops / stock.flops:.2f}",
            f"{cost.parameters / 1e6:.1f}",
            f"x{cost.parameters / stock.parameters:.2f}",
        )
    patch = " x ".join(map(str, stock.patch_size))
    console.print(f"A training step on {configuration} of {plans_name}: {stock.batch_size} patches of {patch}.")
    console.print(table)
    console.print("Memory is that of all tensors at their peak, in mixed precision; cuDNN's buffers come on top.")
    if problems:
        raise together(problems)


def run_plan_for(trainer: str, dataset: str, plans_name: str, output: str, gpu_memory_gb: float | None) -> None:
    """Write plans whose patches and batches fit a trainer.

    Args:
        trainer: its name.
        dataset: number or name of the dataset.
        plans_name: plans to start from.
        output: name of the new plans.
        gpu_memory_gb: the planner's target; default: its own.

    Raises:
        UserError: something is missing, the output is there already, or the trainer cannot be simulated.
    """
    raw = require_folder("nnUNet_raw")
    file, plans, dataset_json = _read(dataset, plans_name)
    name = find_dataset(raw, dataset)
    target = new_plans_file(file.parent, output)
    if not file.with_name("dataset_fingerprint.json").is_file():
        raise UserError(f"There is no dataset_fingerprint.json in {file.parent}: run nnUNetv2_extract_fingerprint.")
    found = _trainer(trainer)

    from nnunet_ext.training.cost.measure import GIB
    from nnunet_ext.training.cost.planning import plans_for

    console = Console(soft_wrap=True)
    with console.status("Planning..."):
        made, outcome = plans_for(found, name, plans, dataset_json, output, gpu_memory_gb)
    write_text(target, json.dumps(made, indent=4))
    console.print(f"Wrote {target}.", highlight=False)
    for configuration, result in outcome.items():
        if isinstance(result, UserError):
            console.print(f"  {configuration} is as it was: {result}", highlight=False)
            continue
        memory, ratio = result
        new, old = (each["configurations"][configuration] for each in (made, plans))
        console.print(
            f"  {configuration}: {new['batch_size']} patches of {_size(new['patch_size'])} "
            f"({plans_name}: {old['batch_size']} of {_size(old['patch_size'])}), {memory / GIB:.2f} GiB of "
            f"tensors, {ratio:.2f} times stock's",
            highlight=False,
        )
    console.print(f"Preprocessed data of {plans_name} are used as they are: there is nothing to preprocess.")
    console.print(f"Train with: nnUNetv2_train {dataset} CONFIGURATION FOLD -tr {trainer} -p {output}", highlight=False)


def _size(patch: Sequence[int]) -> str:
    return " x ".join(map(str, patch))


def _read(dataset: str, plans_name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The plans file, its content and that of dataset.json."""
    folder = require_folder("nnUNet_preprocessed")
    folder = folder / find_dataset(folder, dataset)
    file, advice = folder / f"{plans_name}.json", f"run nnUNetv2_plan_and_preprocess -d {dataset} first"
    plans, dataset_json = (read_json(each, advice, "plan again") for each in (file, folder / "dataset.json"))
    return file, plans, dataset_json


def _trainer(name: str) -> Any:
    from nnunet_ext.plugin.lookup import did_you_mean, find_trainer

    try:
        return find_trainer(name)
    except AttributeError:
        raise UserError(did_you_mean(name)) from None
