"""The converters, one entry each: the command line is made from them.

Plain data, quick to import: an entry names the function that finds its cases, which is imported when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Protocol

from dataset_conversion import catalogue
from dataset_conversion.catalogue import KnownSource
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
        name: parameter of the function that the converter names.
        kind: type annotation.
        help: a sentence.
        default: value where it is not given.
        minimum: smallest value of a number.
        maximum: largest value of a number.
        flags: names on the command line; without any it is made from ``name``.
        is_source: whether it is a folder or archive that is unpacked like SOURCE.
    """

    name: str
    kind: Any
    help: str
    default: Any = REQUIRED
    minimum: float | None = None
    maximum: float | None = None
    flags: tuple[str, ...] = ()
    is_source: bool = False


@dataclass(frozen=True)
class Converter:
    """One way from a public dataset to nnU-Net raw format.

    Attributes:
        command: name on the command line.
        about: facts about the dataset; the help is written from them, and dataset.json where they are always the same.
        function: ``module:name`` of the function that finds the cases; the module is one of ``dataset_conversion``.
            Its parameters are ``folder``, the own options and what is fixed; it gives
            :class:`~dataset_conversion.engine.plan.Findings`.
        own: options that only this converter has.
        fixed: further arguments of the function.
    """

    command: str
    about: About
    function: str
    own: tuple[OwnOption, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    has_source: ClassVar[bool] = True

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"dataset_conversion.{module}"), name)
        return function

    def __call__(self, source: Path, options: Options, **own: Any) -> Path:
        """Convert.

        Args:
            source: folder or archive, as ``about`` says.
            options: the user's choices.
            **own: own options, by name.

        Returns:
            The dataset folder.

        Raises:
            UserError: something is missing, ambiguous or damaged.
        """
        from dataset_conversion.engine import convert_source

        sources = {option.name for option in self.own if option.is_source}
        further = {name: path for name, path in own.items() if name in sources and path is not None}
        find = partial(self.load(), **{name: value for name, value in own.items() if name not in sources}, **self.fixed)
        dataset = self.about.dataset if isinstance(self.about, KnownSource) else None
        return convert_source(source, options, find, dataset, further)


@dataclass(frozen=True)
class Combination(Converter):
    """A dataset made of others that are in nnU-Net raw format already.

    Its function converts; its parameters are ``options`` and the own options.
    """

    has_source: ClassVar[bool] = False

    def __call__(self, options: Options, **own: Any) -> Path:  # type: ignore[override] # there is no source
        """Combine.

        Args:
            options: the user's choices.
            **own: own options, by name.

        Returns:
            The dataset folder.

        Raises:
            UserError: the datasets are missing or do not fit together.
        """
        folder: Path = self.load()(options=options, **own)
        return folder


_LABELLED = OwnOption(
    "labelled",
    float,
    "Fraction of the training part that keeps its labels; the rest goes to imagesUn.",
    default=1.0,
    minimum=0.0,
    maximum=1.0,
)

CONVERTERS = (
    Converter(
        "msd",
        catalogue.MSD,
        "msd:find_cases",
        own=(
            OwnOption(
                "validation",
                int | None,
                "Write one fold that validates on so many cases, e.g. 20 for Task09.",
                default=None,
                minimum=1,
            ),
            _LABELLED,
            OwnOption("draw", int, "With --labelled: which random draw of the cases.", default=0, minimum=0),
        ),
    ),
    Converter(
        "nih-pancreas",
        catalogue.NIH_PANCREAS,
        "nih_pancreas:find_cases",
        own=(
            OwnOption("labels", Path | None, "Folder or zip with the labels, if not in SOURCE.", None, is_source=True),
        ),
    ),
    Converter("sliver07", catalogue.SLIVER07, "sliver07:find_cases"),
    Converter(
        "lits",
        catalogue.LITS,
        "lits:find_cases",
        own=(
            _LABELLED,
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
            OwnOption(
                "compressed",
                bool,
                "Write .nii.gz though the volumes are .nii, as a union with other datasets needs.",
                default=False,
                flags=("--compressed",),
            ),
        ),
    ),
    Converter("chaos-ct", catalogue.CHAOS_CT, "chaos:find_cases", fixed=MappingProxyType({"part": "CT"})),
    Converter("chaos-t1dual", catalogue.CHAOS_T1DUAL, "chaos:find_cases", fixed=MappingProxyType({"part": "T1DUAL"})),
    Converter("chaos-t2spir", catalogue.CHAOS_T2SPIR, "chaos:find_cases", fixed=MappingProxyType({"part": "T2SPIR"})),
    Converter("btcv", catalogue.BTCV, "btcv:find_cases"),
    Combination(
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
    ),
)


def converter(command: str) -> Converter:
    """The converter of a command, such as "lits".

    Raises:
        KeyError: there is none of that name.
    """
    return {one.command: one for one in CONVERTERS}[command]
