"""Evaluation of a folder of predictions against a folder of references."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext import __version__
from nnunet_ext.errors import UserError
from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.cases import CasePair, find_cases, missing_message, model_folder
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.reading import (
    LabelMap,
    UnreadableError,
    find_reader,
    geometry_difference,
    read_label_map,
)
from nnunet_ext.evaluation.results import Evaluation
from nnunet_ext.evaluation.targets import LabelScheme, label_scheme, read_dataset_json

Progress = Callable[[int, int, str], None]
Record = dict[str, Any]
_EXAMPLES = 5  # references tried when looking for the right reader


@dataclass(frozen=True)
class _Job:
    """What a worker process needs beside the case."""

    scheme: LabelScheme
    conventions: Conventions
    reader: type
    allow_missing: bool
    annotated: Mapping[str, Sequence[int | str]]
    cache: Path | None
    threads: int


class _CaseError(Exception):
    """A case that cannot be scored; the message names the file."""


def find_dataset_json(reference_dir: Path, prediction_dir: Path) -> Path:
    """Look where nnU-Net leaves a ``dataset.json``: beside predictions, in the model folder, above ``labelsTr``.

    Raises:
        UserError: If there is none.
    """
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
        allow_missing: Score a prediction that is absent or unusable as empty, and say so, instead of raising.
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
    cases = find_cases(reference_dir, prediction_dir, dataset_json["file_ending"], splits_file, only_predicted)
    if cases.missing and not allow_missing:
        raise UserError(
            f"{missing_message(cases.missing, len(cases.pairs))}; predict them, or choose --allow-missing to score "
            "them as missed or --only-predicted to pass over them"
        )
    reader = find_reader(dataset_json, [pair.reference for pair in cases.pairs[:_EXAMPLES]])
    num_processes = max(1, min(num_processes, len(cases.pairs)))
    if cache_dir is not None:
        cache_dir.mkdir(parents=True, exist_ok=True)
    annotated = dataset_json.get("annotated_labels", {})
    job = _Job(
        scheme, conventions, reader, allow_missing, annotated, cache_dir, threads=-1 if num_processes == 1 else 1
    )

    records: list[Record] = []
    problems: list[str] = []
    for done, (pair, outcome) in enumerate(_run(partial(_evaluate_case, job), cases.pairs, num_processes), start=1):
        if isinstance(outcome, str):
            problems.append(outcome)
        else:
            records.append(outcome)
        if progress is not None:
            progress(done, len(cases.pairs), pair.case)
    if problems:
        kept = f" The other {len(records)} cases are kept and will not be computed again." if cache_dir else ""
        first = f"{len(problems)} of {len(cases.pairs)} cases cannot be scored: " if len(problems) > 1 else ""
        raise UserError(f"{first}{'; '.join(sorted(problems))}.{kept}")
    return Evaluation.from_records(
        records, scheme.targets, conventions, cases.notes, str(reference_dir), str(prediction_dir)
    )


def _run(
    work: Callable[[CasePair], Record | str], pairs: Sequence[CasePair], num_processes: int
) -> Iterator[tuple[CasePair, Record | str]]:
    """Yield each pair with its record or with a sentence on what is wrong with it, as they finish."""
    if num_processes == 1:
        for pair in pairs:
            yield pair, work(pair)
        return
    # Spawned, as in nnU-Net: forking is not safe beside threads.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_processes, mp_context=context) as pool:
        futures = {pool.submit(work, pair): pair for pair in pairs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process was killed, most likely for lack of memory; run again with a smaller -np, finished "
                "cases are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _evaluate_case(job: _Job, pair: CasePair) -> Record | str:
    """The record of a case, or a sentence on why there is none; runs in a worker process."""
    fingerprint = _fingerprint(job, pair)
    stored = None if job.cache is None else job.cache / f"{pair.case}.json"
    if stored is not None and stored.is_file():
        try:
            content = json.loads(stored.read_text(encoding="utf-8"))
        except ValueError:  # half-written by an interrupted run; it is computed again
            content = {}
        if content.get("fingerprint") == fingerprint:
            return content["record"]
    try:
        record = _score(job, pair)
    except (_CaseError, UnreadableError) as error:
        return str(error)
    if stored is not None:
        stored.write_text(json.dumps({"fingerprint": fingerprint, "record": record}), encoding="utf-8")
    return record


def _fingerprint(job: _Job, pair: CasePair) -> str:
    """Hash of all that decides a record: the files by size and date, the classes and the conventions."""
    files = []
    for path in (pair.reference, pair.prediction):
        state = path.stat() if path.exists() else None
        files.append((str(path.resolve()), state and state.st_size, state and state.st_mtime_ns))
    parts = (
        __version__,
        files,
        pair.fold,
        asdict(job.scheme),
        job.conventions.to_dict(),
        job.reader.__name__,
        job.allow_missing,
        job.annotated.get(pair.case),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _score(job: _Job, pair: CasePair) -> Record:
    reference = read_label_map(pair.reference, job.reader)
    _check_labels(reference, pair.reference, job.scheme, may_ignore=True)
    note = ""
    try:
        prediction = _usable_prediction(job, pair, reference)
    except (_CaseError, UnreadableError) as error:
        if not job.allow_missing:
            raise
        note = f"scored as missed: {error}"
        prediction = np.zeros_like(reference.array)
    results = evaluate_pair(
        reference.array,
        prediction,
        reference.spacing,
        job.scheme,
        job.conventions,
        flat=reference.flat,
        workers=job.threads,
    )
    annotated = job.annotated.get(pair.case)
    classes = {}
    for target in job.scheme.targets:
        result = results[target.name]
        row: dict[str, Any] = {
            "presence": result.presence,
            **{key.upper(): value for key, value in asdict(result.counts).items()},
            "n_ref": result.counts.n_ref,
            "n_pred": result.counts.n_pred,
            "volume_ref_ml": result.volume_ref_ml,
            "volume_pred_ml": result.volume_pred_ml,
            **result.metrics,
        }
        if annotated is not None and not ({target.name, *target.members} & set(annotated)):
            row |= dict.fromkeys(result.metrics, float("nan")) | {"presence": "unannotated"}
        classes[target.name] = row
    return {
        "case": pair.case,
        "fold": pair.fold,
        "reference_file": str(pair.reference),
        "prediction_file": str(pair.prediction),
        "spacing": list(reference.spacing),
        "shape": list(reference.array.shape),
        "note": note,
        "classes": classes,
    }


def _usable_prediction(job: _Job, pair: CasePair, reference: LabelMap) -> np.ndarray:
    if not pair.prediction.is_file():
        raise _CaseError(f"{pair.prediction} does not exist")
    prediction = read_label_map(pair.prediction, job.reader)
    difference = geometry_difference(reference, prediction)
    if difference:
        raise _CaseError(f"{pair.prediction} does not lie on the grid of its reference: {difference}")
    _check_labels(prediction, pair.prediction, job.scheme, may_ignore=False)
    return prediction.array


def _check_labels(label_map: LabelMap, path: Path, scheme: LabelScheme, may_ignore: bool) -> None:
    declared = [v for v in scheme.labels if may_ignore or v != scheme.ignore]
    array = label_map.array
    # Most label maps hold only labels 0..n without gaps, which the maximum settles.
    if declared == list(range(declared[-1] + 1)) and array.max() <= declared[-1]:
        return
    unknown = sorted(set(np.unique(array).tolist()) - set(declared))
    if unknown:
        values = ", ".join(str(v) for v in unknown[:5]) + (" and more" if len(unknown) > 5 else "")
        raise _CaseError(f"{path} holds label {values}, which dataset.json does not declare")
