"""The ``nnunet-ext`` command: one short function per command, each importing what it needs when it runs."""

from __future__ import annotations

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


def main() -> None:
    """Entry point of ``nnunet-ext``."""
    run(app)


if __name__ == "__main__":
    main()
