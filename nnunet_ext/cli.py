"""The ``nnunet-ext`` command: one short function per command, each importing what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dataset_conversion.cli import app as convert_app
from nnunet_ext import __version__
from nnunet_ext.console import run

app = typer.Typer(
    name="nnunet-ext",
    help="Datasets, trainers and evaluation that extend nnU-Net v2. "
    "Train and predict with the stock nnUNetv2_* commands.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(convert_app, name="convert")

DEMO_TRAINER = "nnUNetTrainerRefinedGAN_4epochs_50iters"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def trainers() -> None:
    """List the trainers: what each does, where it is described, what it needs and costs."""
    from rich.console import Console
    from rich.table import Table

    from nnunet_ext.trainers.registry import TRAINERS

    table = Table()
    table.add_column("trainer (-tr)", no_wrap=True)
    for heading in ("what it adds to nnU-Net", "described in", "needs", "time per iteration"):
        table.add_column(heading)
    for entry in TRAINERS.values():
        table.add_row(entry.name, entry.summary, entry.paper, entry.needs, entry.cost)
    console = Console()
    console.print(table)
    console.print("Any of them, and any stock trainer, takes a run length: [bold]<trainer>_<N>epochs_<M>iters[/bold].")


@app.command()
def path() -> None:
    """Print the folder for nnU-Net's variable nnUNet_extTrainer, for where the start-up hook does not run.

    Example: export nnUNet_extTrainer=$(nnunet-ext path)
    """
    from nnunet_ext.plugin.startup import plugin_folder

    typer.echo(plugin_folder())


@app.command()
def doctor() -> None:
    """Check versions, device, folders and trainers, and say what to fix; exit code 1 if anything is."""
    from rich.console import Console

    from nnunet_ext.environment import examine

    console = Console(soft_wrap=True)
    all_fine = True
    for finding in examine():
        all_fine &= finding.is_fine
        mark = "[green]ok  [/green]" if finding.is_fine else "[red]fix [/red]"
        console.print(f"{mark} [bold]{finding.subject:<14}[/bold]", end="")
        console.print(finding.message, markup=False, highlight=False)
    if not all_fine:
        raise typer.Exit(1)


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A Decathlon task, e.g. Task04_Hippocampus; without it, a synthetic abdomen.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything that is made.")] = Path("demo"),
    trainer: Annotated[str, typer.Option("-tr", help="Trainer, with its run length.")] = DEMO_TRAINER,
) -> None:
    """Run the whole of nnU-Net once, small: convert, plan, train, predict, evaluate, show.

    The commands are shown as they run, for you to use on your own data.
    """
    from nnunet_ext.demo import run_demo

    run_demo(folder, output, trainer)


def main() -> None:
    """Entry point of ``nnunet-ext``."""
    run(app)


if __name__ == "__main__":
    main()
