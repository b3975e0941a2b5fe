"""The converters, one entry each: the command line is made from them.

Plain data, quick to import: an entry names its conversion function, which is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from dataset_conversion import catalogue
from dataset_conversion.options import Options

#: Default of an option that has to be given.
REQUIRED = object()


class About(Protocol):
    """What the help says of a converter."""

    @property
    def title(self) -> str:
        """One line."""

    def help(self) -> str:
        """The whole text, with rich's markup."""


@dataclass(frozen=True)
class Text:
    """Help of a converter whose source is no public dataset."""

    title: str
    text: str

    def help(self) -> str:
        """Text for the command line's help."""
        return f"{self.title}.\n\n{self.text}"


@dataclass(frozen=True)
class OwnOption:
    """An option that one converter has beside the shared ones of :class:`~dataset_conversion.options.Options`.

    Attributes:
        name: parameter of the conversion function.
        kind: type annotation.
        help: a sentence.
        default: value where it is not given.
        minimum: smallest value of a number.
        maximum: largest value of a number.
        flags: names on the command line; without any it is made from ``name``.
    """

    name: str
    kind: Any
    help: str
    default: Any = REQUIRED
    minimum: float | None = None
    maximum: float | None = None
    flags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converter:
    """One way to a dataset in nnU-Net raw format.

    Attributes:
        command: name on the command line.
        about: facts about the dataset, from which the help is written.
        function: ``module:name`` of the function that finds the cases and converts them; the module is one of
            ``dataset_conversion``. Its parameters are ``source`` (unless ``has_source`` is false), ``options``, the
            own options and what is fixed.
        own: options that only this converter has.
        fixed: further arguments of the function.
        has_source: whether the user points at a folder or archive.
    """

    command: str
    about: About
    function: str
    own: tuple[OwnOption, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    has_source: bool = True

    def load(self) -> Callable[..., Path]:
        """Import the conversion function."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Path] = getattr(import_module(f"dataset_conversion.{module}"), name)
        return function

    def __call__(self, options: Options, **arguments: Any) -> Path:
        """Convert.

        Args:
            options: the user's choices.
            **arguments: ``source`` and own options, by name.

        Returns:
            The dataset folder.

        Raises:
            UserError: something is missing, ambiguous or damaged.
        """
        return self.load()(options=options, **arguments, **self.fixed)


CONVERTERS = (
    Converter(
        "msd",
        catalogue.MSD,
        "msd:convert_msd",
        own=(
            OwnOption(
                "validation",
                int | None,
                "Write one fold that validates on so many cases, e.g. 20 for Task09.",
                default=None,
                minimum=1,
            ),
        ),
    ),
    Converter(
        "nih-pancreas",
        catalogue.NIH_PANCREAS,
        "nih_pancreas:convert_nih_pancreas",
        own=(OwnOption("labels", Path | None, "Folder or zip with the labels, if not in SOURCE.", default=None),),
    ),
    Converter("sliver07", catalogue.SLIVER07, "sliver07:convert_sliver07"),
    Converter(
        "lits",
        catalogue.LITS,
        "lits:convert_lits",
        own=(
            OwnOption(
                "labelled",
                float,
                "Fraction of the training part that keeps its labels; the rest goes to imagesUn.",
                default=1.0,
                minimum=0.0,
                maximum=1.0,
            ),
            OwnOption(
                "test_cases",
                Path | None,
                "File with the numbers of the cases to hold out, instead of 31 drawn.",
                default=None,
            ),
            OwnOption(
                "spacing_csv",
                Path | None,
                "Lines case,x,y,z with voxel sizes in mm for cases that lost theirs.",
                default=None,
            ),
        ),
    ),
    Converter("chaos-ct", catalogue.CHAOS_CT, "chaos:convert_chaos", fixed=MappingProxyType({"part": "CT"})),
    Converter(
        "chaos-t1dual", catalogue.CHAOS_T1DUAL, "chaos:convert_chaos", fixed=MappingProxyType({"part": "T1DUAL"})
    ),
    Converter(
        "chaos-t2spir", catalogue.CHAOS_T2SPIR, "chaos:convert_chaos", fixed=MappingProxyType({"part": "T2SPIR"})
    ),
    Converter("btcv", catalogue.BTCV, "btcv:convert_btcv"),
    Converter(
        "union",
        Text(
            "One dataset of a fully labelled and several partially labelled ones, for nnUNetTrainerPaNN",
            "They must be in nnUNet_raw already; their images are not copied. Labels are renumbered to those of the "
            "full set, and dataset.json says for each case what was annotated. Validation folds hold fully labelled "
            "cases only.\n\n"
            "[bold]Example:[/bold] nnunet-ext convert union -d 520 -n AbdomenUnion --full 507 --partial 9:spleen "
            "--partial 501:pancreas --partial 503:liver",
        ),
        "union:convert_union",
        own=(
            OwnOption("name", str, "Name of the new dataset, without number.", flags=("-n", "--name")),
            OwnOption("full", int, "Id of the fully labelled dataset.", minimum=1, maximum=999),
            OwnOption(
                "partial",
                list[str],
                "Id and annotated organs of a partially labelled one: ID:ORGAN[,ORGAN...]; may be repeated. Where "
                "its labels have other names, ORGAN=LABEL[+LABEL...]; -LABEL leaves a label out.",
            ),
            OwnOption("exclude", list[str] | None, "Case of the union to leave out; may be repeated.", default=None),
        ),
        has_source=False,
    ),
)
