"""Which prediction belongs to which reference: plain folders and cross-validation results of nnU-Net."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.reading import known_ending

_SHOWN = 5
_CHANNEL = r"_\d{4}$"
# Formats of volumes with their geometry; a picture among them is no label map, and the other way round.
_VOLUMES = {".nii", ".nii.gz", ".nrrd", ".mha", ".gipl"}


@dataclass(frozen=True)
class CasePair:
    """A reference and its prediction.

    Attributes:
        case: Case identifier, the file name without its ending.
        reference: Path of the reference label map.
        prediction: Path where the prediction is or should be.
        fold: Name of the fold it was predicted in, empty outside cross-validation.
    """

    case: str
    reference: Path
    prediction: Path
    fold: str = ""


@dataclass(frozen=True)
class CaseList:
    """All pairs to evaluate, and what the reader of the result must know about their choice."""

    pairs: tuple[CasePair, ...]
    missing: tuple[str, ...]
    notes: tuple[str, ...]


def find_cases(
    reference_dir: Path,
    prediction_dir: Path,
    file_ending: str,
    splits_file: Path | None = None,
    only_predicted: bool = False,
) -> CaseList:
    """Pair the label maps of two folders by file name.

    ``prediction_dir`` is a folder of predictions, a ``fold_X/validation`` folder or a whole trained-model folder of
    nnU-Net, whose folds are then taken together. What the folds of a cross-validation should hold is read from
    ``splits_final.json``. A label map of another format that nnU-Net reads (of volumes for volumes, of pictures for
    pictures) is taken where its case has none of the dataset's, and a note says so.

    Args:
        reference_dir: Folder of references, such as ``labelsTr``.
        prediction_dir: See above.
        file_ending: ``file_ending`` of ``dataset.json``.
        splits_file: ``splits_final.json``; looked up in ``nnUNet_preprocessed`` by default.
        only_predicted: Evaluate what was predicted and pass over the other references.

    Raises:
        UserError: If a folder is absent or empty, a prediction has no reference, a case was predicted in two folds or
            is there in two formats.
    """
    folds = _folds(prediction_dir)
    references, predictions, fold_of, notes = _found(reference_dir, prediction_dir, folds, file_ending)
    expected = set(references)
    if only_predicted:
        expected = set(predictions)
        if left := len(references) - len(expected):
            notes.append(
                f"Only predicted cases were evaluated; {left} of {len(references)} references were passed over."
            )
    elif "" not in folds and expected != set(predictions):
        split = _expected_in_folds(prediction_dir, list(folds), splits_file)
        if split is None:
            expected = set(predictions)
            notes.append(
                "splits_final.json was not found, so the cases are those predicted in "
                f"{', '.join(folds)}; a missing prediction would not be noticed."
            )
        else:
            expected = set(split) | set(predictions)
            fold_of = split | fold_of
            unknown = sorted(expected - set(references))
            if unknown:
                raise UserError(f"{reference_dir} has no reference for {_list(unknown)} of splits_final.json")
    default_folder = next(iter(folds.values()))
    pairs = []
    for case in sorted(expected):
        fold = fold_of.get(case, "")
        path = predictions.get(case, folds.get(fold, default_folder) / f"{case}{file_ending}")
        pairs.append(CasePair(case, references[case], path, fold))
    missing = tuple(sorted(expected - set(predictions)))
    return CaseList(tuple(pairs), missing, tuple(notes))


def _found(
    reference_dir: Path, prediction_dir: Path, folds: Mapping[str, Path], file_ending: str
) -> tuple[dict[str, Path], dict[str, Path], dict[str, str], list[str]]:
    """References and predictions by case, the fold of each prediction, and notes."""
    references, other_references = _label_maps(reference_dir, file_ending, "reference")
    predictions: dict[str, Path] = {}
    fold_of: dict[str, str] = {}
    notes, twice = [], []
    for fold, folder in folds.items():
        own, others = _label_maps(folder, file_ending, "prediction")
        taken = _other_formats(others, own, folder, {*references, *other_references})
        notes += _say_formats(taken, "predictions", folder, file_ending)
        strays = [path.name for case, paths in others.items() if case not in {*own, *taken} for path in paths]
        if strays:
            notes.append(f"Passed over in {folder}, for no case has that name: {_list(strays)}.")
        for case, path in (own | taken).items():
            if case in predictions:
                twice.append(f"case {case} was predicted in {predictions[case].parent} and in {folder}")
            predictions[case] = path
            fold_of[case] = fold
    if twice:
        raise UserError(_list(twice, "; "))
    taken = _other_formats(other_references, references, reference_dir, other_references)
    notes += _say_formats(taken, "references", reference_dir, file_ending)
    references |= taken
    for role, folder, files in (("reference", reference_dir, references), ("prediction", prediction_dir, predictions)):
        if not files:
            shown = sorted({path.suffix for path in folder.iterdir() if known_ending(path.name)})
            rather = f", as dataset.json says, but files that end in {', '.join(shown)}" if shown else ""
            raise UserError(f"{role} folder {folder} holds no file that ends in {file_ending!r}{rather}")
    strangers = sorted(set(predictions) - set(references))
    if strangers:
        raise UserError(
            f"{reference_dir} has no reference for the prediction of {_list(strangers)}"
            f"{_did_you_mean(strangers, list(references))}"
        )
    if any(folder.samefile(reference_dir) for folder in folds.values()):
        notes.append(f"References were compared with themselves: both are in {reference_dir}.")
    return references, predictions, fold_of, notes


def missing_message(missing: tuple[str, ...], total: int) -> str:
    """One sentence about predictions that are not there."""
    return f"{len(missing)} of {total} predictions missing: {_list(list(missing))}"


def _list(names: list[str], separator: str = ", ") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + more


def _label_maps(folder: Path, file_ending: str, role: str) -> tuple[dict[str, Path], dict[str, list[Path]]]:
    """Label maps by case, and those of the other formats that nnU-Net reads.

    What is no file (a folder, a link to nothing) is among them: its case is to be named, not forgotten. Names that
    begin with a dot are what file managers and archives leave behind (``._case.nii.gz``) and count for nothing.
    """
    if not folder.is_dir():
        raise UserError(f"{role} folder {folder} does not exist")
    own: dict[str, Path] = {}
    others: dict[str, list[Path]] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{role} folder {folder} cannot be read: {error.strerror}") from error
    for path in paths:
        if path.name.endswith(file_ending):
            own[path.name.removesuffix(file_ending)] = path
        elif (ending := known_ending(path.name)) and (ending in _VOLUMES) == (file_ending in _VOLUMES):
            others.setdefault(path.name[: -len(ending)], []).append(path)
        else:
            continue
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise UserError(f"the name of {os.fsencode(path)!r} is no text that results can hold: rename it") from None
    return own, others


def _other_formats(
    others: Mapping[str, list[Path]], own: Mapping[str, Path], folder: Path, wanted: Collection[str]
) -> dict[str, Path]:
    """Label maps of another format for cases that have none of the dataset's.

    Raises:
        UserError: If there are two of a case, and so a choice.
    """
    found = {case: paths for case, paths in others.items() if case not in own and case in wanted}
    for case, paths in found.items():
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            raise UserError(f"{folder} holds {names} for case {case}: take out all but one")
    return {case: paths[0] for case, paths in found.items()}


def _say_formats(found: Mapping[str, Path], role: str, folder: Path, file_ending: str) -> list[str]:
    if not found:
        return []
    names = _list([path.name for path in found.values()])
    return [f"{len(found)} {role} in {folder} are of another format than {file_ending}: {names}."]


def _did_you_mean(strangers: Sequence[str], references: Sequence[str]) -> str:
    """What may be wrong with names that do not fit, or nothing."""
    known = {name.casefold(): name for name in references}
    for stranger in strangers:
        if stranger in {re.sub(_CHANNEL, "", name) for name in references}:
            return f"; its files are named like images, {references[0]}: is it the folder of label maps?"
        if re.sub(_CHANNEL, "", stranger) in references:
            right = re.sub(_CHANNEL, "", stranger)
            return f"; did you mean {right}? nnU-Net gives channel numbers to images alone: rename the predictions"
        if close := difflib.get_close_matches(stranger.casefold(), known, n=1, cutoff=0.8):
            return f"; for {stranger}, did you mean {known[close[0]]}? Names must be the same"
    return ""


def _folds(folder: Path) -> dict[str, Path]:
    """Fold names and their folders; a plain folder is one without a name."""
    if not folder.is_dir():
        raise UserError(f"prediction folder {folder} does not exist")
    if folder.name == "validation" and folder.parent.name.startswith("fold_"):
        return {folder.parent.name: folder}
    trained = sorted(
        path for path in folder.iterdir() if re.fullmatch(r"fold_\w+", path.name) and (path / "validation").is_dir()
    )
    # fold_all is validated on its own training cases: it is evaluated alone, when asked for by its folder.
    numbered = [path for path in trained if path.name != "fold_all"]
    return {path.name: path / "validation" for path in numbered or trained} or {"": folder}


def model_folder(prediction_dir: Path) -> Path:
    """The trained-model folder of a ``fold_X/validation`` folder; any other folder is returned as it is."""
    is_fold = prediction_dir.name == "validation" and prediction_dir.parent.name.startswith("fold_")
    return prediction_dir.parent.parent if is_fold else prediction_dir


def _expected_in_folds(prediction_dir: Path, folds: list[str], splits_file: Path | None) -> dict[str, str] | None:
    """Case to fold, as ``splits_final.json`` says, or None where there is no such file."""
    if splits_file is None:
        preprocessed = os.environ.get("nnUNet_preprocessed")
        if not preprocessed:
            return None
        splits_file = Path(preprocessed) / model_folder(prediction_dir).resolve().parent.name / "splits_final.json"
        if not splits_file.is_file():
            return None
    try:
        splits: list[Mapping[str, Any]] = json.loads(splits_file.read_text(encoding="utf-8"))
        return {
            case: fold
            for fold in folds
            if fold != "fold_all"
            for case in splits[int(fold.removeprefix("fold_"))]["val"]
        } or None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"cannot read the folds {', '.join(folds)} from {splits_file}: {error!r}") from error
