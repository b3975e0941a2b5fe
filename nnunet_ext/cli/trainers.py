"""``nnunet-ext trainers``: the trainers by paper, or all that is known of one."""

from __future__ import annotations

from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import did_you_mean
from nnunet_ext.plugin.registry import TRAINERS, TrainerEntry
from nnunet_ext.training.run_length import strip_run_length


def show_all() -> None:
    """Print one table, a section a paper."""
    console = Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trainer", no_wrap=True)
    table.add_column("adds", ratio=3)
    table.add_column("time", justify="right")
    table.add_column("gain", ratio=2)
    for paper, entries in groupby(TRAINERS.values(), key=_paper):
        table.add_section()
        table.add_row(f"[bold]{paper}[/bold]")
        for entry in entries:
            table.add_row(entry.name.removeprefix("nnUNetTrainer"), entry.summary, entry.time, entry.gain)
    console.print(table)
    console.print(
        "Names begin with [bold]nnUNetTrainer[/bold]: nnUNetv2_train ... -tr nnUNetTrainerMLL. Time of an iteration "
        "and gain are relative to stock nnU-Net. Any of them, and any stock trainer, takes a run length: "
        "NAME_<N>epochs, NAME_<N>epochs_<M>iters. [bold]nnunet-ext trainers NAME[/bold] says more of one."
    )


def show(name: str) -> None:
    """Print all that is known of one trainer.

    Raises:
        UserError: there is none of this name.
    """
    full = strip_run_length(name)
    entry = TRAINERS.get(full) or TRAINERS.get(f"nnUNetTrainer{full}")
    if entry is None:
        raise UserError(did_you_mean(name))
    console = Console()
    console.print(f"[bold]{entry.name}[/bold]", highlight=False)
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
    for heading, text in entry.details().items():
        table.add_row(f"[dim]{heading}[/dim]", text)
    console.print(table)


def _paper(entry: TrainerEntry) -> str:
    """Authors and year."""
    return entry.paper.partition(",")[0]
