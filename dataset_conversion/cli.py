"""``nnunet-ext convert``: one short command per dataset; conversion code is imported when one runs."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from dataset_conversion import catalogue
from dataset_conversion.options import Options
from nnunet_ext.core.console import run
from nnunet_ext.core.errors import UserError

_SETTINGS: dict[str, Any] = {"rich_markup_mode": "rich", "pretty_exceptions_enable": False, "no_args_is_help": True}
_HELP_OPTION = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    help="Convert a public dataset, as downloaded, to nnU-Net raw format (into the folder nnUNet_raw).",
    context_settings=_HELP_OPTION,
    **_SETTINGS,
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


Source = Annotated[Path, typer.Argument(help="Folder or archive, see above.", show_default=False)]


@dataclass(frozen=True)
class _Text:
    """Help of a command that converts no public dataset."""

    title: str
    text: str

    def help(self) -> str:
        return f"{self.title}.\n\n{self.text}"


_UNION = _Text(
    "One dataset of a fully labelled and several partially labelled ones, for nnUNetTrainerPaNN",
    "They must be in nnUNet_raw already; their images are not copied. Labels are renumbered to those of the full set, "
    "and dataset.json says for each case what was annotated. Validation folds hold fully labelled cases only.\n\n"
    "[bold]Example:[/bold] nnunet-ext convert union -d 520 -n AbdomenUnion --full 507 --partial 9:spleen "
    "--partial 501:pancreas --partial 503:liver",
)


def _command(name: str, dataset: catalogue.Source | _Text) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register ``function([source,] options, ...)``; the command gets the shared parameters instead of ``options``."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(function, eval_str=True).parameters
        shared = inspect.signature(_shared, eval_str=True).parameters
        parameters = [*(own[key] for key in own if key != "options"), *shared.values()]

        def command(**arguments: Any) -> None:
            options = _shared(**{key: arguments.pop(key) for key in shared})
            try:
                function(options=options, **arguments)
            except KeyboardInterrupt:
                print("Interrupted: the same command goes on from here.", file=sys.stderr)
                raise typer.Exit(130) from None
            except OSError as error:  # no room on the disk, no permission, a share that went away
                what = f"{error.filename}: " if error.filename else ""
                raise UserError(f"{what}{error.strerror or error}.") from error

        # typer reads a command's parameters from its signature
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=dataset.help(), short_help=dataset.title, no_args_is_help=True)(command)
        return function

    return register


@_command("msd", catalogue.MSD)
def _msd(
    source: Source,
    options: Options,
    validation: Annotated[
        int | None,
        typer.Option(
            min=1, help="Write one fold that validates on so many cases, e.g. 20 for Task09.", show_default=False
        ),
    ] = None,
) -> None:
    from dataset_conversion.msd import convert_msd

    convert_msd(source, options, validation)


@_command("nih-pancreas", catalogue.NIH_PANCREAS)
def _nih_pancreas(
    source: Source,
    options: Options,
    labels: Annotated[
        Path | None, typer.Option(help="Folder or zip with the labels, if not in SOURCE.", show_default=False)
    ] = None,
) -> None:
    from dataset_conversion.nih_pancreas import convert_nih_pancreas

    convert_nih_pancreas(source, options, labels)


@_command("sliver07", catalogue.SLIVER07)
def _sliver07(source: Source, options: Options) -> None:
    from dataset_conversion.sliver07 import convert_sliver07

    convert_sliver07(source, options)


@_command("lits", catalogue.LITS)
def _lits(
    source: Source,
    options: Options,
    labelled: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Fraction of the training part that keeps its labels; the rest goes to imagesUn."
        ),
    ] = 1.0,
    test_cases: Annotated[
        Path | None,
        typer.Option(help="File with the numbers of the cases to hold out, instead of 31 drawn.", show_default=False),
    ] = None,
    spacing_csv: Annotated[
        Path | None,
        typer.Option(help="Lines case,x,y,z with voxel sizes in mm for cases that lost theirs.", show_default=False),
    ] = None,
) -> None:
    from dataset_conversion.lits import convert_lits

    convert_lits(source, options, labelled, spacing_csv, test_cases)


@_command("chaos-ct", catalogue.CHAOS_CT)
def _chaos_ct(source: Source, options: Options) -> None:
    from dataset_conversion.chaos import convert_chaos

    convert_chaos(source, options, "CT")


@_command("chaos-t1dual", catalogue.CHAOS_T1DUAL)
def _chaos_t1dual(source: Source, options: Options) -> None:
    from dataset_conversion.chaos import convert_chaos

    convert_chaos(source, options, "T1DUAL")


@_command("chaos-t2spir", catalogue.CHAOS_T2SPIR)
def _chaos_t2spir(source: Source, options: Options) -> None:
    from dataset_conversion.chaos import convert_chaos

    convert_chaos(source, options, "T2SPIR")


@_command("btcv", catalogue.BTCV)
def _btcv(source: Source, options: Options) -> None:
    from dataset_conversion.btcv import convert_btcv

    convert_btcv(source, options)


@_command("union", _UNION)
def _union(
    options: Options,
    name: Annotated[
        str, typer.Option("-n", "--name", help="Name of the new dataset, without number.", show_default=False)
    ],
    full: Annotated[int, typer.Option(min=1, max=999, help="Id of the fully labelled dataset.", show_default=False)],
    partial: Annotated[
        list[str],
        typer.Option(
            help="Id and annotated organs of a partially labelled one: ID:ORGAN[,ORGAN...]; may be repeated. Where "
            "its labels have other names, ORGAN=LABEL[+LABEL...]; -LABEL leaves a label out.",
            show_default=False,
        ),
    ],
    exclude: Annotated[
        list[str] | None, typer.Option(help="Case of the union to leave out; may be repeated.", show_default=False)
    ] = None,
) -> None:
    from dataset_conversion.union import convert_union

    convert_union(name, full, partial, options, exclude or ())


def main(*commands: str) -> None:
    """Run some of the commands on their own, as ``python -m dataset_conversion.<module>`` does."""
    part = typer.Typer(context_settings=_HELP_OPTION, **_SETTINGS)
    part.registered_commands = [info for info in app.registered_commands if info.name in commands]
    run(part)
