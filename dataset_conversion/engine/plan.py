"""What is converted, into which folder, and what stops it before any case is read."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dataset_conversion.cases import Case, FileCase, Subset
from dataset_conversion.dataset import Dataset
from dataset_conversion.engine.doubts import doubts_on, sentence, with_force
from dataset_conversion.options import Options
from dataset_conversion.splits import SEED, Split, hold_out
from nnunet_ext.core.environment import folder_value
from nnunet_ext.core.errors import UserError, together


@dataclass
class Findings:
    """What a converter found in the source.

    Attributes:
        cases: to be converted.
        skipped: reason by name of what was left out.
        notes: sentences on the dataset as a whole.
        problems: what is wrong with single cases; the conversion stops once all have been looked at.
        doubts: sentences on what most likely is a mistake; with ``--force`` they are notes.
        split: folds for ``splits_final.json``; None leaves them to nnU-Net.
        dataset: what the source says of itself as a whole; None where that is known beforehand.
    """

    cases: list[Case] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    split: Split | None = None
    dataset: Dataset | None = None

    def names(self, subset: Subset) -> list[str]:
        """Names of the cases of one subset, in their order."""
        return [case.name for case in self.cases if case.subset == subset]

    def keep_labels(self, names: Sequence[str], fraction: float, draw: int = 0) -> list[str]:
        """Move cases that are drawn at random to the unlabelled ones, and note it.

        Args:
            names: of the cases that are drawn from; those of images in files alone.
            fraction: of them that keep their labels, one case at least.
            draw: which of the random draws, see :func:`~dataset_conversion.splits.hold_out`.

        Returns:
            The names of those that keep their labels.
        """
        if fraction >= 1 or not names:
            return list(names)
        kept = hold_out(names, max(1, round(len(names) * fraction)), draw)
        moved = set(names) - set(kept)
        self.cases = [
            replace(case, subset="Un", label=None) if isinstance(case, FileCase) and case.name in moved else case
            for case in self.cases
        ]
        drawn = f"seed {SEED}" + (f", draw {draw}" if draw else "")
        self.notes.append(f"of {len(names)} cases to train, {len(kept)} drawn with {drawn} keep their labels")
        return kept

    def note_missing(self, what: str, known: Sequence[int], found: Sequence[int]) -> None:
        """Note which of the known case numbers were not found."""
        missing = sorted(set(known) - set(found))
        if missing:
            self.notes.append(f"{len(missing)} of {len(known)} {what} were not found: {_ranges(missing)}")


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``1-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def raw_folder() -> Path:
    """The folder of nnU-Net's raw datasets.

    Raises:
        UserError: ``nnUNet_raw`` is not set, or has quotes or a ``~`` in it.
    """
    return Path(folder_value("nnUNet_raw")).absolute()


def folder_name(dataset: Dataset, options: Options) -> str:
    """Name of the dataset's folder, ``Dataset<three digits>_<name>``."""
    number = dataset.number if options.dataset_id is None else options.dataset_id
    return f"Dataset{number:03d}_{dataset.name}"


def check_target(dataset: Dataset, options: Options) -> Path:
    """Give the folder the dataset will get.

    Raises:
        UserError: nnUNet_raw is not set, the dataset exists already, or its id belongs to another dataset.
    """
    target = raw_folder() / folder_name(dataset, options)
    prefix = target.name[: len("Dataset000_")]
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        folder = Path(os.environ.get(variable) or os.devnull)
        others = [p.name for p in folder.glob(f"{prefix}*") if p.name != target.name] if folder.is_dir() else []
        if others:
            raise UserError(
                f"Dataset id {prefix[7:10]} is taken by {others[0]} in {variable}; choose another one with -d."
            )
    if target.exists() and not options.overwrite:
        raise UserError(f"{target} exists; choose another id with -d, or replace it with --overwrite.")
    return target


def check_cases(cases: Sequence[Case], source: Path) -> None:
    """Make sure that there are labelled cases and that no two have one name."""
    if not any(case.subset == "Tr" for case in cases):
        raise UserError(f"{source} holds no labelled case of this dataset; --help says what to point at.")
    name, count = Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        first, second = [case.image_path for case in cases if case.name == name][:2]
        raise UserError(f"{first} and {second} are both case {name}; point at one copy of the dataset.")


def check_sources_stay(cases: Sequence[Case], target: Path) -> None:
    """The dataset that is replaced must not hold what the new one is made of."""
    if not target.exists():
        return
    absolute, resolved = target.absolute(), target.resolve()
    for case in cases:
        for path in case.sources():
            if absolute in path.absolute().parents or resolved in path.resolve().parents:
                raise UserError(f"{path} lies in {target}, which would be replaced; choose another -d.")


def check_preprocessed_split(name: str, split: Split | None) -> None:
    """nnU-Net's planning stops with a bare assertion where the preprocessed folder holds other folds."""
    folder = os.environ.get("nnUNet_preprocessed")
    path = Path(folder, name, "splits_final.json") if folder else None
    if split is None or path is None or not path.is_file():
        return
    if json.loads(path.read_text(encoding="utf-8"))[: len(split.folds)] != list(split.folds):
        raise UserError(
            f"{path} holds other folds, from an earlier conversion; remove that folder or choose another -d."
        )


def check_headers(cases: Sequence[Case], dataset: Dataset, findings: Findings, options: Options) -> None:
    """Look at the headers of all cases and say at once what is wrong with any of them, or was found before."""
    problems: list[UserError | str] = [*findings.problems]
    doubts = list(findings.doubts)
    for case in cases:
        try:
            for path, header in case.check_headers():
                doubts += [with_force(path, text) for text in doubts_on(path, header, dataset.field_of_view_mm)]
        except (UserError, OSError) as error:
            problems.append(sentence(error))
    if problems or (doubts and not options.force):
        raise together([*problems, *([] if options.force else doubts)])
    findings.notes.extend(text.partition("; ")[0] for text in findings.doubts)
