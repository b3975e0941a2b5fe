"""``nnunet-ext options``: which options the trainers have, and plans files that set them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from nnunet_ext.cli.plans_files import new_plans_file, read_json
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_text
from nnunet_ext.plugin.lookup import did_you_mean, find_trainer
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.training.base import ExtendedTrainer
from nnunet_ext.training.options import describe, meaning, parse, resolve, types_of, unknown, with_options
from nnunet_ext.training.run_length import strip_run_length

OPTION_HEAD = ("option", "default", "values", "paper", "what it does")


def trainer_with_options(name: str) -> type[ExtendedTrainer]:
    """A trainer of this project, or one derived from it, by its name without run length.

    Raises:
        UserError: there is none of this name, or it has no options.
    """
    try:
        found = find_trainer(strip_run_length(name))
    except AttributeError:
        raise UserError(did_you_mean(name)) from None
    if not issubclass(found, ExtendedTrainer):
        raise UserError(f"{name} is not a trainer of nnunet_ext, so it has no options.")
    return found


def show_all() -> None:
    """Print the names of the options of every trainer."""
    table = Table("trainer", "options", box=box.SIMPLE_HEAD)
    for name in TRAINERS:
        table.add_row(name, ", ".join(types_of(trainer_with_options(name).options_class)) or "none")
    console = Console()
    console.print(table)
    console.print("nnunet-ext options TRAINER says what each one does.")


def option_rows(name: str) -> list[tuple[str, str, str, str, str]]:
    """What :data:`OPTION_HEAD` says of each option of a trainer, in the order of the trainer.

    Raises:
        UserError: as of :func:`trainer_with_options`.
    """
    trainer = trainer_with_options(name)
    options = trainer.options_class
    values = resolve(options, trainer, strip_run_length(name), {}, "").as_dict()
    rows = []
    for option, kind in types_of(options).items():
        known = meaning(options, option)
        rows.append((option, _shown(values[option]), describe(kind, known), known.paper or "-", known.text))
    return rows


def show(name: str) -> None:
    """Print the options of one trainer: default, allowed values, the paper's value, a sentence."""
    table = Table(*OPTION_HEAD, box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    rows = option_rows(name)
    # Names are needed whole, for --set.
    table.columns[0].min_width = max((len(row[0]) for row in rows), default=0)
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def write_plans(name: str, settings: Sequence[str], dataset: str, plans_name: str, output_name: str) -> Path:
    """Write a plans file of another name that sets options of a trainer.

    Args:
        name: trainer, without run length.
        settings: ``option=value``.
        dataset: number or name of the dataset.
        plans_name: plans to start from.
        output_name: name of the new plans.

    Returns:
        The file, beside the plans to start from.

    Raises:
        UserError: an option or a value does not exist, or the plans file is missing, or the new one is there already.
    """
    trainer, base = trainer_with_options(name), strip_run_length(name)
    values = {}
    for setting in settings:
        option, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set takes option=value, got {setting!r}.")
        if option not in types_of(trainer.options_class):
            raise UserError(unknown(trainer.options_class, option, base))
        values[option] = parse(trainer.options_class, option, text)
    folder = require_folder("nnUNet_preprocessed")
    folder = folder / find_dataset(folder, dataset)
    plans = read_json(folder / f"{plans_name}.json", "plan first, or name other plans with -p", "plan again")
    target = new_plans_file(folder, output_name)
    write_text(target, json.dumps(with_options(plans, base, values, output_name), indent=4))
    return target


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if value is None:
        return "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "-"
