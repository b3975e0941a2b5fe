"""``nnunet-ext convert``: one short command per dataset; conversion code is imported when one runs."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dataset_conversion import catalogue
from nnunet_ext.console import run

app = typer.Typer(
    help="Convert a public dataset, as downloaded, to nnU-Net raw format (into the folder nnUNet_raw).",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class ModeChoice(str, Enum):
    """How files that nnU-Net can read as they are get into the dataset."""

    link = "link"
    copy = "copy"


class CheckChoice(str, Enum):
    """How much of every file is read."""

    full = "full"
    headers = "headers"


SourceArgument = Annotated[Path, typer.Argument(help="Folder or archive, see above.", show_default=False)]
IdOption = Annotated[
    int | None,
    typer.Option("-d", "--dataset-id", min=1, max=999, help="Dataset id instead of the usual one.", show_default=False),
]
ModeOption = Annotated[
    ModeChoice,
    typer.Option(help="link: refer to the source files where they are, so keep them; copy: be independent of them."),
]
ProcessesOption = Annotated[
    int, typer.Option("-np", "--processes", min=1, help="Worker processes; each holds one case in memory.")
]
CheckOption = Annotated[
    CheckChoice,
    typer.Option(help="full: read every voxel (label values, checksums, NaN); headers: only headers and file lengths."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace the dataset if it exists.")]

DEFAULT_PROCESSES = min(8, os.cpu_count() or 1)


@app.command("msd", help=catalogue.MSD.help())
def msd(
    source: SourceArgument,
    dataset_id: IdOption = None,
    mode: ModeOption = ModeChoice.link,
    processes: ProcessesOption = DEFAULT_PROCESSES,
    check: CheckOption = CheckChoice.full,
    dry_run: DryRunOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Medical Segmentation Decathlon."""
    from dataset_conversion.engine import Options
    from dataset_conversion.msd import convert_msd

    convert_msd(source, Options(dataset_id, mode.value, processes, check.value, dry_run, overwrite))


def main(command: str) -> None:
    """Run one dataset's command on its own, as ``python -m dataset_conversion.<module>`` does."""
    (info,) = [info for info in app.registered_commands if info.name == command]
    assert info.callback is not None
    single = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    single.command(command, help=info.help, context_settings={"help_option_names": ["-h", "--help"]})(info.callback)
    run(single)
