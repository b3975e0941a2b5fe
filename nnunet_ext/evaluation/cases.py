"""Which prediction belongs to which reference: plain folders and cross-validation results of nnU-Net."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError

_SHOWN = 5


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
    ``splits_final.json``.

    Args:
        reference_dir: Folder of references, such as ``labelsTr``.
        prediction_dir: See above.
        file_ending: ``file_ending`` of ``dataset.json``.
        splits_file: ``splits_final.json``; looked up in ``nnUNet_preprocessed`` by default.
        only_predicted: Evaluate what was predicted and pass over the other references.

    Raises:
        UserError: If a folder is absent or empty, a prediction has no reference or a case was predicted in two folds.
    """
    references = _label_maps(reference_dir, file_ending, "reference")
    folds = _folds(prediction_dir)
    predictions: dict[str, Path] = {}
    fold_of: dict[str, str] = {}
    for fold, folder in folds.items():
        for case, path in _label_maps(folder, file_ending, "prediction").items():
            if case in predictions:
                raise UserError(f"case {case} was predicted in {predictions[case].parent} and in {folder}")
            predictions[case] = path
            fold_of[case] = fold
    strangers = sorted(set(predictions) - set(references))
    if strangers:
        raise UserError(f"{reference_dir} has no reference for the prediction of {_list(strangers)}")

    notes = []
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


def missing_message(missing: tuple[str, ...], total: int) -> str:
    """One sentence about predictions that are not there."""
    return f"{len(missing)} of {total} predictions missing: {_list(list(missing))}"


def _list(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _label_maps(folder: Path, file_ending: str, role: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{role} folder {folder} does not exist")
    found = {
        path.name.removesuffix(file_ending): path
        for path in sorted(folder.iterdir())
        if path.name.endswith(file_ending) and path.is_file()
    }
    if not found:
        raise UserError(f"{role} folder {folder} holds no file that ends in {file_ending!r}")
    return found


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
