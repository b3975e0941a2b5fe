"""Scoring one case from its files, in a worker process; imports no more than that takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext import __version__
from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.cases import CasePair
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.reading import LabelMap, UnreadableError, geometry_difference, read_label_map
from nnunet_ext.evaluation.targets import LabelScheme

Record = dict[str, Any]
"""All results of a case in plain types: its files, spacing and shape, a note, and a row per class."""


@dataclass(frozen=True)
class Job:
    """What a worker needs beside the case.

    Attributes:
        scheme: The classes.
        conventions: How to score.
        reader: nnU-Net's reader class.
        allow_missing: Score an unusable prediction as empty.
        annotated: Names or values of the annotated classes by case; all where a case is not named.
        cache: Folder of finished cases.
        threads: Threads for nearest-neighbour searches.
    """

    scheme: LabelScheme
    conventions: Conventions
    reader: type
    allow_missing: bool
    annotated: Mapping[str, Sequence[int | str]]
    cache: Path | None
    threads: int


class _CaseError(Exception):
    """A case that cannot be scored; the message names the file."""


def evaluate_case(job: Job, pair: CasePair) -> Record | str:
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


def _fingerprint(job: Job, pair: CasePair) -> str:
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


def _score(job: Job, pair: CasePair) -> Record:
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


def _usable_prediction(job: Job, pair: CasePair, reference: LabelMap) -> np.ndarray:
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
