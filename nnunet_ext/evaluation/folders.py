"""Evaluation of a folder of predictions against a folder of references."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder
from nnunet_ext.core.processes import in_processes
from nnunet_ext.evaluation.cases import find_cases, missing_message, model_folder
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.reading import find_readers
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import annotated_classes, label_scheme, read_dataset_json
from nnunet_ext.evaluation.worker import MISSED, Job, Matching, Record, evaluate_case

Progress = Callable[[int, int, str], None]
_PROBLEMS_SHOWN = 20


def find_dataset_json(reference_dir: Path, prediction_dir: Path) -> Path:
    """Look where nnU-Net leaves a ``dataset.json``: beside predictions, in the model folder, above ``labelsTr``.

    Raises:
        UserError: If there is none, or a folder does not exist.
    """
    for role, folder in (("reference", reference_dir), ("prediction", prediction_dir)):
        if not folder.is_dir():
            raise UserError(f"{role} folder {folder} does not exist")
    for folder in (prediction_dir, model_folder(prediction_dir), reference_dir.parent):
        if (folder / "dataset.json").is_file():
            return folder / "dataset.json"
    raise UserError(f"no dataset.json in {prediction_dir} or {reference_dir.parent}; name it with -djfile")


def evaluate_folders(
    reference_dir: str | Path,
    prediction_dir: str | Path,
    dataset_json: str | Path | Mapping[str, Any] | None = None,
    conventions: Conventions | None = None,
    *,
    allow_missing: bool = False,
    only_predicted: bool = False,
    match: Matching = "header",
    splits_file: Path | None = None,
    num_processes: int = 1,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate all predictions of a folder, or of all folds of an nnU-Net cross-validation.

    Example:
        >>> result = evaluate_folders("labelsTs", "predictions", "dataset.json")  # doctest: +SKIP
        >>> result.table[["case", "label", "Dice", "HD95"]]  # doctest: +SKIP

    Args:
        reference_dir: Folder of reference label maps.
        prediction_dir: Folder of predictions, ``fold_X/validation`` folder or trained-model folder.
        dataset_json: ``dataset.json`` as path or content; looked up by default, see :func:`find_dataset_json`.
        conventions: Defaults to the preset ``papers``.
        allow_missing: Score a prediction that is absent or unusable as empty, and say so, instead of raising. One
            that fits its reference in shape but not in its header is refused all the same.
        match: What tells that a prediction lies on the grid of its reference. ``"header"``: equal shape, voxel sizes
            and direction cosines within a thousandth, origins within a thousandth of a voxel (at least of 1 mm) and
            of their distance from 0. ``"array"``: equal shape alone, for references whose headers are known to be
            wrong; where headers differ, a note says so and voxel sizes are those of the prediction.
        only_predicted: Pass over references that have no prediction, and say so.
        splits_file: ``splits_final.json`` that tells which cases the folds should hold.
        num_processes: Processes; with more than one, call from under ``if __name__ == "__main__":``.
        cache_dir: Folder for finished cases, from which an interrupted run resumes.
        progress: Called with (cases done, cases in all, case).

    Raises:
        UserError: For a missing prediction, a geometry mismatch, an undeclared label or an unreadable file. All cases
            at fault are found before it is raised, and finished cases stay in ``cache_dir``.
    """
    reference_dir, prediction_dir = Path(reference_dir), Path(prediction_dir)
    conventions = conventions or Conventions()
    if dataset_json is None:
        dataset_json = find_dataset_json(reference_dir, prediction_dir)
    if not isinstance(dataset_json, Mapping):
        dataset_json = read_dataset_json(Path(dataset_json))
    scheme = label_scheme(dataset_json, conventions)
    annotated = annotated_classes(dataset_json, scheme.targets)
    readers = find_readers(dataset_json)
    cases = find_cases(reference_dir, prediction_dir, dataset_json["file_ending"], splits_file, only_predicted)
    if cases.missing and not allow_missing:
        raise UserError(
            f"{missing_message(cases.missing, len(cases.pairs))}; predict them, or choose --allow-missing to score "
            "them as missed or --only-predicted to pass over them"
        )
    num_processes = max(1, min(num_processes, len(cases.pairs)))
    if cache_dir is not None:
        make_folder(cache_dir)
    threads = -1 if num_processes == 1 else 1
    job = Job(scheme, conventions, readers, allow_missing, match, annotated, cache_dir, threads)

    records: list[Record] = []
    problems: list[str] = []
    for done, (pair, outcome) in enumerate(
        in_processes(partial(evaluate_case, job), cases.pairs, num_processes), start=1
    ):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            records.append(outcome)
        if progress is not None:
            progress(done, len(cases.pairs), pair.case)
    if problems:
        kept = f" The other {len(records)} cases are kept and will not be computed again." if cache_dir else ""
        first = f"{len(problems)} of {len(cases.pairs)} cases cannot be scored: " if len(problems) > 1 else ""
        more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        raise UserError(f"{first}{'; '.join(sorted(problems)[:_PROBLEMS_SHOWN])}{more}.{kept}")
    if all(MISSED in record["note"] for record in records):
        raise UserError(
            f"None of the {len(records)} predictions can be used, which is no result but a fault: "
            f"{records[0]['note'].removeprefix(f'{MISSED}: ')}."
        )
    return Evaluation.from_records(
        records, scheme.targets, conventions, cases.notes, str(reference_dir), str(prediction_dir)
    )
