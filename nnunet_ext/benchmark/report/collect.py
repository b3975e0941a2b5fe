"""All that a work folder holds, as tables: finished, failed and missing cells, their values, curves and attempts.

The tables can be written as text and read again without a change, so that a bundle gives the report of its work folder.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.benchmark.records import (
    CELLS,
    CURVES,
    ENVIRONMENT,
    METRICS,
    SPECIFICATION,
    AttemptFailure,
    Cell,
    Failure,
    Fingerprint,
    Record,
    Usage,
    read_attempts,
    read_object,
    read_records,
)
from nnunet_ext.benchmark.report.specification import Arm, Setting, Specification
from nnunet_ext.core.errors import UserError

_AGAIN = "run the benchmark again"
PLACE = ["dataset", "configuration", "plans", "arm", "fold", "seed"]
"""Columns that say which cell a row belongs to; ``plans`` are those of the matrix."""
_TEXT, _COUNT, _NUMBER = "str", "Int64", "float64"
_PLACE_TYPES = dict.fromkeys(PLACE[:4], _TEXT) | dict.fromkeys(PLACE[4:], "int64")
_VALUE_TYPES = {"case": _TEXT, "label": _TEXT, "metric": _TEXT, "value": _NUMBER}
_CURVE_TYPES = {"epoch": "int64"} | dict.fromkeys(
    ("train_loss", "val_loss", "pseudo_dice", "learning_rate", "seconds"), _NUMBER
)
_COUNTS = ("attempts", "epochs", "peak_allocated_bytes", "peak_reserved_bytes", "peak_rss_bytes", "parameters")
_TABLES: dict[str, dict[str, str]] = {
    "cells": {
        **_PLACE_TYPES,
        "cell_plans": _TEXT,
        "trainer": _TEXT,
        "status": _TEXT,
        "failure_kind": _TEXT,
        "failure_message": _TEXT,
        "failure_attempt": _COUNT,
        **{f.name: _COUNT if f.name in _COUNTS else _NUMBER for f in fields(Usage)},
        **{f"fingerprint_{f.name}": _TEXT for f in fields(Fingerprint)},
        "iterations_per_epoch": _COUNT,
        "batch_size": _COUNT,
        "started": _TEXT,
        "ended": _TEXT,
    },
    "values": {**_PLACE_TYPES, "test_set": _TEXT, **_VALUE_TYPES},
    "curves": {**_PLACE_TYPES, **_CURVE_TYPES},
    "attempts": {
        **_PLACE_TYPES,
        "attempt": "int64",
        "exit_code": _COUNT,
        "first_epoch": _COUNT,
        "last_epoch": _COUNT,
        "wall_seconds": _NUMBER,
        "failure_kind": _TEXT,
        "failure_message": _TEXT,
    },
}


@dataclass(frozen=True)
class Results:
    """What a benchmark has given so far.

    Attributes:
        content: ``benchmark.json``.
        environment: ``environment.json``, empty where there is none.
        cells: A row per cell asked for. ``status`` is ``finished``, ``failed`` or ``missing``; the rest is its record.
        values: A row per cell, test set (empty: final validation), case, class and metric. A value that is not defined
            is NaN.
        curves: A row per cell and epoch.
        attempts: A row per attempt in the ledger.
        notes: What the reader must know about the choice of cells.
    """

    content: Mapping[str, Any]
    environment: Mapping[str, Any]
    cells: pd.DataFrame
    values: pd.DataFrame
    curves: pd.DataFrame
    attempts: pd.DataFrame
    notes: tuple[str, ...]

    @cached_property
    def specification(self) -> Specification:
        """What was asked."""
        return Specification.from_dict(self.content, self.cells["dataset"].unique())

    @property
    def settings(self) -> list[Setting]:
        """Where arms are compared: first the final validation of every dataset, then external test sets."""
        trained = self.specification.settings
        places = self.values[["dataset", "configuration", "plans", "test_set"]].drop_duplicates()
        found = [Setting(*map(str, row)) for row in places.itertuples(index=False)]
        tested = sorted({s for s in found if s.test_set}, key=lambda s: (trained.index(s.training), s.test_set))
        return trained + tested

    def csv(self, name: str) -> str:
        """One of the tables (``cells``, ``values``, ``curves``, ``attempts``) as text, numbers to the last digit."""
        table: pd.DataFrame = getattr(self, name)
        return table.to_csv(index=False, lineterminator="\n")

    def to_files(self) -> dict[str, str]:
        """The content as text by file name; :meth:`from_files` reads it."""
        tables = {f"{name}.csv": self.csv(name) for name in _TABLES}
        return {
            SPECIFICATION: _json(self.content),
            ENVIRONMENT: _json(self.environment),
            "notes.json": _json(list(self.notes)),
            **tables,
        }

    @classmethod
    def from_files(cls, files: Mapping[str, str]) -> Results:
        """Inverse of :meth:`to_files`.

        Raises:
            UserError: If a file is absent or cannot be read.
        """
        try:
            tables = {name: _typed(_read_table(files[f"{name}.csv"], types), types) for name, types in _TABLES.items()}
            content, environment, notes = (
                json.loads(files[name]) for name in (SPECIFICATION, ENVIRONMENT, "notes.json")
            )
        except KeyError as error:
            raise UserError(f"the bundle lacks {error}; make it again") from error
        except (ValueError, TypeError) as error:
            raise UserError(f"the bundle cannot be read ({error}); make it again") from error
        return cls(content, environment, **tables, notes=tuple(notes))


def collect(work: Path) -> Results:
    """Read a work folder.

    Args:
        work: Work folder of ``nnunet-ext benchmark run``.

    Raises:
        UserError: There is no benchmark in the folder, or a file of it is damaged; one sentence that names the file.
    """
    path = work / SPECIFICATION
    if not path.is_file():
        raise UserError(f"{work} holds no benchmark ({SPECIFICATION} is absent); name the work folder of a run")
    content = read_object(path, _AGAIN)
    environment = read_object(work / ENVIRONMENT, _AGAIN) if (work / ENVIRONMENT).is_file() else {}
    records = {record.cell.folder(work): record for record in read_records(work)}
    folders = {path.name for path in (work / CELLS).glob("*") if path.is_dir()}
    specification = Specification.from_dict(content, folders)
    rows: dict[str, list[dict[str, Any]]] = {"cells": [], "attempts": []}
    frames: dict[str, list[pd.DataFrame]] = {"values": [], "curves": []}
    without_curves = 0
    used = set()
    for setting, arm, fold, seed in product(
        specification.settings, specification.arms, specification.folds, specification.seeds
    ):
        if not arm.has(setting, fold):
            continue
        folder, record = _found(work, records, setting, arm, fold, seed)
        used.add(folder)
        place = {**setting.training._asdict(), "arm": arm.name, "fold": fold, "seed": seed}
        del place["test_set"]
        attempts = read_attempts(folder)
        rows["cells"].append(place | _cell_row(record, arm, len(attempts)))
        for number, attempt in attempts.items():
            rows["attempts"].append(
                {name: getattr(attempt, name, None) for name in _TABLES["attempts"]}
                | place
                | {"attempt": number}
                | _failure_columns(attempt.failure)
            )
        if record is not None and record.status == "finished":
            frames["values"] += [frame.assign(**place) for frame in _values(folder)]
            if (folder / CURVES).is_file():
                frames["curves"].append(_read_file(folder / CURVES, _CURVE_TYPES).assign(**place))
            elif not arm.is_ensemble:
                without_curves += 1
    notes = []
    if left := len(set(records) - used):
        notes.append(f"Cells in the folder that the specification does not ask for, left out: {left}.")
    if without_curves:
        notes.append(f"Finished cells without {CURVES}: {without_curves}.")
    tables = {
        name: _typed(pd.DataFrame(found, columns=list(_TABLES[name])), _TABLES[name]) for name, found in rows.items()
    }
    for name, found in frames.items():
        types = _TABLES[name]
        joined = pd.concat(found) if found else pd.DataFrame(columns=list(types))
        tables[name] = _typed(joined.reindex(columns=list(types)), types)
    return Results(content, environment, **tables, notes=tuple(notes))


def _found(
    work: Path, records: Mapping[Path, Record], setting: Setting, arm: Arm, fold: int, seed: int
) -> tuple[Path, Record | None]:
    """Folder and record of a cell; an arm with plans of its own lies under their name or under that of the matrix."""
    folders = [
        Cell(setting.dataset, setting.configuration, plans, arm.name, arm.trainer, fold, seed).folder(work)
        for plans in (arm.plans, setting.plans)
        if plans
    ]
    folder = next((f for f in folders if f in records), next((f for f in folders if f.is_dir()), folders[-1]))
    return folder, records.get(folder)


def _cell_row(record: Record | None, arm: Arm, attempts: int) -> dict[str, Any]:
    if record is None:
        return {"trainer": arm.trainer, "status": "missing", "attempts": attempts}
    failure = record.failure
    return {
        "cell_plans": record.cell.plans,
        "trainer": record.cell.trainer,
        "status": record.status,
        **_failure_columns(failure),
        "failure_attempt": failure.attempt if failure else None,
        **asdict(record.usage),
        **{f"fingerprint_{name}": value for name, value in asdict(record.fingerprint).items()},
        "iterations_per_epoch": record.iterations_per_epoch,
        "batch_size": record.batch_size,
        "started": record.started,
        "ended": record.ended,
    }


def _failure_columns(failure: Failure | AttemptFailure | None) -> dict[str, str]:
    if failure is None:
        return {"failure_kind": "", "failure_message": ""}
    return {"failure_kind": failure.kind, "failure_message": failure.message}


def _values(folder: Path) -> Iterator[pd.DataFrame]:
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder / METRICS} is absent though the cell is finished; remove the folder to run it again")
    for path in (folder / METRICS, *sorted(folder.glob("test_*.csv"))):
        frame = _read_file(path, _VALUE_TYPES)
        keys = ["case", "label", "metric"]
        if frame.duplicated(keys).any():
            case, label, name = frame[frame.duplicated(keys)][keys].iloc[0]
            raise UserError(f"{path} has {name} of {label} in {case} twice; remove the folder of this cell")
        # A row that is absent must not pass for a value that is not defined.
        if len(frame) != frame["case"].nunique() * frame["label"].nunique() * frame["metric"].nunique():
            raise UserError(
                f"{path} lacks rows: not every case has every class and metric; remove the folder of this cell"
            )
        yield frame.assign(test_set="" if path.name == METRICS else path.stem.removeprefix("test_"))


def _read_file(path: Path, types: Mapping[str, str]) -> pd.DataFrame:
    try:
        return _read_table(path.read_text(encoding="utf-8"), types)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path} ({error}); remove the folder of this cell to run it again") from error


def _read_table(text: str, types: Mapping[str, str]) -> pd.DataFrame:
    # Text is read as it stands, as a class may be called "NA"; numbers by Python, to the last digit.
    counts = [name for name, kind in types.items() if kind not in {_TEXT, _NUMBER}]
    frame = pd.read_csv(
        io.StringIO(text),
        dtype={name: types[name] if name in counts else _TEXT for name in types},
        keep_default_na=False,
        na_values={name: [""] for name in counts},
    )
    if absent := [name for name in types if name not in frame]:
        raise ValueError(f"no column {absent[0]}")
    numbers = [name for name, kind in types.items() if kind == _NUMBER]
    exact = {name: [float(number) if number else math.nan for number in frame[name]] for name in numbers}
    return frame[list(types)].assign(**exact)


def _typed(frame: pd.DataFrame, types: Mapping[str, str]) -> pd.DataFrame:
    text = [name for name, kind in types.items() if kind == _TEXT]
    return (
        frame.astype(dict.fromkeys(text, object)).fillna(dict.fromkeys(text, "")).astype(types).reset_index(drop=True)
    )


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
