"""``nnunet-ext convert``: one command per converter of the registry, whose code is imported when one runs."""

from __future__ import annotations

import inspect
import os
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from dataset_conversion.options import Options
from dataset_conversion.registry import CONVERTERS, REQUIRED, Converter
from nnunet_ext.core.errors import UserError

app = typer.Typer(
    help="Convert a public dataset, as downloaded, to nnU-Net raw format (into the folder nnUNet_raw).",
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)


class _Mode(str, Enum):
    link = "link"
    copy = "copy"


class _Check(str, Enum):
    full = "full"
    headers = "headers"


def _shared(  # the parameters that every command has
    dataset_id: Annotated[
        int | None,
        typer.Option("-d", "--dataset-id", min=1, max=999, help="Id instead of the usual one.", show_default=False),
    ] = None,
    mode: Annotated[
        _Mode,
        typer.Option(
            help="link: leave files that nnU-Net can read (NIfTI) where they are and refer to them, so keep them; "
            "copy: make the dataset independent of them."
        ),
    ] = _Mode.link,
    processes: Annotated[
        int, typer.Option("-np", "--processes", min=1, help="Worker processes; each holds one case in memory.")
    ] = min(8, os.cpu_count() or 1),
    check: Annotated[
        _Check,
        typer.Option(
            help="full: read every voxel (label values, checksums, NaN, flipped labels); "
            "headers: only headers and file lengths of files that stay as they are."
        ),
    ] = _Check.full,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the dataset if it exists.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Convert although something looks wrong: a flipped or empty label, two voxel sizes or an odd unit in "
            "a header, values that are not those of a CT, listed cases that are missing. The report says so.",
        ),
    ] = False,
) -> Options:
    return Options(dataset_id, mode.value, processes, check.value, dry_run, overwrite, force)


_SOURCE = Annotated[Path, typer.Argument(help="Folder or archive, see above.", show_default=False)]


def _parameters(converter: Converter) -> list[inspect.Parameter]:
    """The source and the converter's own options as typer reads them from a signature."""
    parameters = []
    if converter.has_source:
        parameters.append(_parameter("source", _SOURCE, REQUIRED))
    for own in converter.own:
        info = typer.Option(
            *own.flags,
            min=own.minimum,
            max=own.maximum,
            help=own.help,
            show_default=own.default is not REQUIRED and own.default is not None,
        )
        parameters.append(_parameter(own.name, Annotated[own.kind, info], own.default))
    return parameters


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    given = inspect.Parameter.empty if default is REQUIRED else default
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=given, annotation=annotation)


def _add_command(converter: Converter) -> None:
    """Give the converter a command, with its own parameters and the shared ones."""
    shared = inspect.signature(_shared, eval_str=True).parameters
    parameters = [*_parameters(converter), *shared.values()]

    def command(**arguments: Any) -> None:
        options = _shared(**{key: arguments.pop(key) for key in shared})
        try:
            converter(options=options, **arguments)
        except KeyboardInterrupt:
            print("Interrupted: the same command goes on from here.", file=sys.stderr)
            raise typer.Exit(130) from None
        except OSError as error:  # no room on the disk, no permission, a share that went away
            what = f"{error.filename}: " if error.filename else ""
            raise UserError(f"{what}{error.strerror or error}.") from error

    # typer reads a command's parameters from its signature
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    about = converter.about
    app.command(converter.command, help=about.help(), short_help=about.title, no_args_is_help=True)(command)


for _converter in CONVERTERS:
    _add_command(_converter)
