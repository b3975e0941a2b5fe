"""Scoring one case from its files, in a worker process; imports no more than that takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnunet_ext import __version__
from nnunet_ext.core.files import not_written
from nnunet_ext.core.records import file_state, fingerprint, keep, kept
from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.cases import CasePair
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.reading import (
    LabelMap,
    Readers,
    UnreadableError,
    geometry_difference,
    read_label_map,
    shape_difference,
)
from nnunet_ext.evaluation.targets import LabelScheme

Record = dict[str, Any]
"""All results of a case in plain types: its files, spacing and shape, a note, and a row per class."""
MISSED = "scored as missed"
"""How the note of a case begins whose prediction was not used."""
Matching = Literal["header", "array"]
_CLEARLY = 0.25  # in Dice
_HINT = (
    "if the header of one of them is known to be wrong and both arrays have the same order, as with the published "
    "labels of LiTS and NIH Pancreas-CT, choose --match array"
)


@dataclass(frozen=True)
class Job:
    """What a worker needs beside the case.

    Attributes:
        scheme: The classes.
        conventions: How to score.
        readers: nnU-Net's readers.
        allow_missing: Score an absent or unusable prediction as empty.
        match: What tells that prediction and reference lie on one grid: their headers, or that their arrays have the
            same shape; then voxel sizes are those of the prediction, which has them from its image.
        annotated: Names or values of the annotated classes by case; all where a case is not named.
        cache: Folder of finished cases.
        threads: Threads for nearest-neighbour searches.
    """

    scheme: LabelScheme
    conventions: Conventions
    readers: Readers
    allow_missing: bool
    match: Matching
    annotated: Mapping[str, Sequence[int | str]]
    cache: Path | None
    threads: int


class _CaseError(Exception):
    """A case that cannot be scored; the message names the file."""


class _HeaderError(_CaseError):
    """A prediction that fits its reference voxel by voxel but for the headers: never scored as missed."""


def evaluate_case(job: Job, pair: CasePair) -> Record | str:
    """The record of a case, or a sentence on why there is none; runs in a worker process."""
    made_from = _made_from(job, pair)
    stored = None if job.cache is None else job.cache / f"{pair.case}.json"
    found: Record | None = None if stored is None else kept(stored, made_from)
    if found is not None:
        return found
    try:
        record = _score(job, pair)
    except (_CaseError, UnreadableError) as error:
        return str(error)
    if stored is not None:
        try:
            keep(stored, made_from, record)
        except OSError as error:
            raise not_written(stored.parent, error) from error
    return record


def _made_from(job: Job, pair: CasePair) -> str:
    """Hash of all that decides a record: the files by size and date, the classes and the conventions."""
    files = [
        (str(path.absolute()), file_state(path) if path.exists() else None)
        for path in (pair.reference, pair.prediction)
    ]
    return fingerprint(
        __version__,
        files,
        pair.fold,
        asdict(job.scheme),
        job.conventions.to_dict(),
        repr(job.readers),
        job.allow_missing,
        job.match,
        job.annotated.get(pair.case),
    )


def _score(job: Job, pair: CasePair) -> Record:
    reference = read_label_map(pair.reference, job.readers)
    _check_labels(reference, pair.reference, job.scheme, may_ignore=True)
    spacing, notes = reference.spacing, []
    try:
        prediction = _usable_prediction(job, pair, reference)
        array = prediction.array
        difference = geometry_difference(reference, prediction)
        if difference:
            notes.append(f"matched by array, with the voxel sizes of the prediction, for in its header {difference}")
            spacing = prediction.spacing
        remark = prediction.remark if difference else reference.remark
    except (_CaseError, UnreadableError) as error:
        if not job.allow_missing or isinstance(error, _HeaderError):
            raise
        notes.append(f"{MISSED}: {error}")
        array, remark = np.zeros_like(reference.array), reference.remark
    if remark:
        notes.append(f"has an odd header, which distances and volumes follow: {remark}")
    results = evaluate_pair(
        reference.array,
        array,
        spacing,
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
        "spacing": list(spacing),
        "shape": list(reference.array.shape),
        "note": "; ".join(notes),
        "classes": classes,
    }


def _usable_prediction(job: Job, pair: CasePair, reference: LabelMap) -> LabelMap:
    if not pair.prediction.exists() and not pair.prediction.is_symlink():
        raise _CaseError(f"{pair.prediction} does not exist")
    prediction = read_label_map(pair.prediction, job.readers)
    off_grid = f"{pair.prediction} does not lie on the grid of its reference"
    shape = shape_difference(reference, prediction)
    if shape:
        raise _CaseError(f"{off_grid}: {shape}")
    difference = geometry_difference(reference, prediction)
    if difference and job.match == "header":
        raise _HeaderError(f"{off_grid}: {difference}; {_HINT}")
    if difference:
        _check_order(reference, prediction, pair)
    _check_labels(prediction, pair.prediction, job.scheme, may_ignore=False)
    return prediction


def _check_order(reference: LabelMap, prediction: LabelMap, pair: CasePair) -> None:
    """Raise if the prediction fits its reference far better mirrored, which shape alone does not tell."""
    shape = reference.array.shape
    ref, pred = (np.flatnonzero(m.array) for m in (reference, prediction))
    if not (ref.size and pred.size):
        return
    values = prediction.array.ravel()[pred]
    where = np.unravel_index(pred, shape)
    agreement = {}
    for axes in ("", "z", "y", "x", "zy", "zx", "yx", "zyx"):
        turned = tuple(n - 1 - w if a in axes else w for a, w, n in zip("zyx", where, shape, strict=True))
        same = np.count_nonzero(reference.array[turned] == values)
        agreement[axes] = 2 * same / (ref.size + pred.size)
    best = max(agreement, key=lambda axes: agreement[axes])
    if agreement[best] > agreement[""] + _CLEARLY:
        raise _HeaderError(
            f"{pair.prediction} fits its reference better mirrored along {', '.join(best)} (Dice {agreement[best]:.2f} "
            f"instead of {agreement['']:.2f}), so the arrays are not in the same order: turn one of them"
        )


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
