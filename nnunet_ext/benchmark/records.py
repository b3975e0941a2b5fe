"""What a cell of a benchmark leaves behind: its record, and a ledger entry for each attempt.

A cell is one training with its final validation. Its folder in the work folder is :meth:`Cell.folder`; the names of the
files in it stand here, so that who writes and who reads agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, write_text

VERSION = 1
SPECIFICATION = "benchmark.json"  # in the work folder
ENVIRONMENT = "environment.json"
CELLS = "cells"
RECORD = "record.json"  # in the folder of a cell
METRICS = "metrics.csv"
CURVES = "curves.csv"
ATTEMPTS = "attempts"

Status = Literal["finished", "failed"]
FailureKind = Literal["out of memory", "time limit", "NaN", "data", "lost node", "stopped", "other"]

_Part = TypeVar("_Part")


@dataclass(frozen=True, order=True)
class Cell:
    """One training: where it stands in the matrix. Cells are ordered as their folders are.

    Attributes:
        dataset: Full name, ``Dataset091_X``.
        configuration: nnU-Net's configuration, ``2d``.
        plans: Name of the plans, of the matrix or of the arm, without those made for its options.
        arm: Name of the arm in the specification.
        trainer: Name of the trainer's class, run length included.
        fold: Number of the fold.
        seed: Seed.
    """

    dataset: str
    configuration: str
    plans: str
    arm: str
    trainer: str
    fold: int
    seed: int

    def folder(self, work: Path) -> Path:
        """Folder of the cell in a work folder."""
        above = work / CELLS / self.dataset / self.configuration / self.plans / self.arm
        return above / f"fold_{self.fold}" / f"seed_{self.seed}"

    def __str__(self) -> str:
        return f"{self.dataset} {self.configuration} {self.plans}, arm {self.arm}, fold {self.fold}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """Why an attempt failed: the kind, the original message and the number of the attempt, from 1."""

    kind: FailureKind
    message: str
    attempt: int


@dataclass(frozen=True)
class Usage:
    """What a cell cost: sums over attempts, peaks are maxima over attempts.

    Attributes:
        attempts: Number of attempts.
        wall_seconds: Time of all attempts, final validation included.
        cpu_seconds: CPU time of all processes.
        gpu_seconds: Time a device was held; 0 on a CPU.
        training_seconds: Time in epochs.
        epochs: Epochs trained, those repeated after a crash included.
        seconds_per_epoch: Mean over epochs.
        peak_allocated_bytes: Peak of the memory of tensors on the device, ``None`` on a CPU.
        peak_reserved_bytes: Peak of the memory that PyTorch held on the device.
        peak_rss_bytes: Peak of the resident memory of the job's processes.
        parameters: Number of trained parameters.
        inference_seconds_per_case: Time of the final validation's prediction.
    """

    attempts: int
    wall_seconds: float
    cpu_seconds: float
    gpu_seconds: float
    training_seconds: float
    epochs: int
    seconds_per_epoch: float | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_rss_bytes: int | None = None
    parameters: int | None = None
    inference_seconds_per_case: float | None = None


@dataclass(frozen=True)
class Fingerprint:
    """What must agree for two cells to be comparable; sha256 of files in hexadecimal, and versions.

    Attributes:
        split: The cases of the fold.
        plans: The plans file.
        preprocessed: The preprocessed dataset.
        dataset_json: ``dataset.json``.
        labels: The reference labels.
        nnunetv2: Version.
        nnunet_ext: Version.
        torch: Version.
        python: Version.
        device: ``cpu`` or the name of the GPU.
        metrics: The conventions of the metrics.
    """

    split: str
    plans: str
    preprocessed: str
    dataset_json: str
    labels: str
    nnunetv2: str
    nnunet_ext: str
    torch: str
    python: str
    device: str
    metrics: str


@dataclass(frozen=True)
class Record:
    """The end of a cell; written whole, once, when it is finished or has failed for good.

    Attributes:
        cell: The cell.
        status: ``finished`` or ``failed``.
        failure: The last failure of a failed cell, else ``None``.
        usage: Cost.
        fingerprint: What it was made from.
        iterations_per_epoch: Training iterations an epoch.
        batch_size: Cases an iteration.
        started: Start of the first attempt, ISO 8601, UTC.
        ended: End of the last one.
    """

    cell: Cell
    status: Status
    failure: Failure | None
    usage: Usage
    fingerprint: Fingerprint
    iterations_per_epoch: int
    batch_size: int
    started: str
    ended: str

    def write(self, work: Path) -> Path:
        """Write ``record.json`` into the folder of the cell, whole; gives its path.

        Raises:
            UserError: The folder cannot be made.
            ValueError: A number is not finite.
        """
        folder = self.cell.folder(work)
        make_folder(folder)
        write_text(folder / RECORD, _text({"version": VERSION} | asdict(self)))
        return folder / RECORD

    @classmethod
    def read(cls, path: Path) -> Record:
        """Read a ``record.json``.

        Raises:
            UserError: Another version wrote it, or it is not a record; one sentence that names the file.
        """
        content = read_object(path)
        version = content.pop("version", None)
        if version != VERSION:
            raise UserError(
                f"{path} was written by another version of the benchmark (record version {version}, this one reads "
                f"{VERSION}); choose another work folder, or remove the folder of this cell to run it again"
            )
        return _made(cls, content, path)


@dataclass(frozen=True)
class AttemptFailure:
    """Kind and original message of a failed attempt."""

    kind: FailureKind
    message: str


@dataclass(frozen=True)
class Attempt:
    """Ledger entry of one attempt: ``attempts/attempt_N.json`` beside its log ``attempt_N.log``, N from 1.

    Attributes:
        started: Start, ISO 8601, UTC.
        ended: End; ``None`` while it runs and where it was killed.
        wall_seconds: Duration.
        cpu_seconds: CPU time of all processes.
        gpu_seconds: Time a device was held.
        first_epoch: First epoch trained, ``None`` before any.
        last_epoch: Last epoch trained.
        peak_allocated_bytes: Peak of the memory of tensors on the device.
        peak_reserved_bytes: Peak of the memory that PyTorch held on the device.
        peak_rss_bytes: Peak of the resident memory.
        exit_code: Exit code of the job.
        failure: What went wrong, ``None`` where nothing did.
    """

    started: str
    ended: str | None = None
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    first_epoch: int | None = None
    last_epoch: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    peak_rss_bytes: int | None = None
    exit_code: int | None = None
    failure: AttemptFailure | None = None

    def write(self, path: Path) -> None:
        """Write the entry, whole; makes its folder.

        Raises:
            UserError: The folder cannot be made.
            ValueError: A number is not finite.
        """
        make_folder(path.parent)
        write_text(path, _text(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> Attempt:
        """Read an entry.

        Raises:
            UserError: It is not one; one sentence that names the file.
        """
        return _made(cls, read_object(path), path)


def attempt_path(cell_folder: Path, number: int) -> Path:
    """Path of the ledger entry of attempt ``number``, from 1; its log has the suffix ``.log``."""
    return cell_folder / ATTEMPTS / f"attempt_{number}.json"


def read_attempts(cell_folder: Path) -> dict[int, Attempt]:
    """The ledger of a cell by number of the attempt, first attempt first; empty where nothing was tried.

    Raises:
        UserError: An entry cannot be read.
    """
    numbered = ((path.stem.removeprefix("attempt_"), path) for path in (cell_folder / ATTEMPTS).glob("attempt_*.json"))
    found = sorted((int(number), path) for number, path in numbered if number.isdecimal())
    return {number: Attempt.read(path) for number, path in found}


def read_records(work: Path) -> Iterator[Record]:
    """All records of a work folder, in the order of their paths.

    Raises:
        UserError: A record cannot be read, or lies in the folder of another cell.
    """
    for path in sorted((work / CELLS).glob(f"*/*/*/*/fold_*/seed_*/{RECORD}")):
        record = Record.read(path)
        if record.cell.folder(work) != path.parent:
            raise UserError(f"{path} is the record of another cell ({record.cell}); remove it and run the cell again")
        yield record


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_object(path: Path, advice: str = "remove the folder of this cell to run it again") -> dict[str, Any]:
    """The JSON object of a file of a work folder.

    Raises:
        UserError: It cannot be read, or holds something else; ``advice`` says what to do.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; {advice}")
    return content


def _made(kind: type[_Part], content: Any, path: Path) -> _Part:
    """A dataclass from plain data, every field checked, so that a damaged file is named where it is read."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(content, dict):
        raise _damaged(path, f"no {kind.__name__.lower()}: {content!r}")
    if strange := sorted(set(content) - set(known)):
        raise _damaged(path, f"an unknown field {strange[0]}")
    if missing := [name for name, f in known.items() if f.default is MISSING and name not in content]:
        raise _damaged(path, f"no field {missing[0]}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, name, path) for name, value in content.items()})


def _value(hint: Any, value: Any, name: str, path: Path) -> Any:
    options = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if get_origin(option) is Literal:
            if value in get_args(option):
                return value
        elif option is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return float(value)
        elif option in {int, str}:
            if isinstance(value, option) and not isinstance(value, bool):
                return value
        elif option is not type(None):
            return _made(option, value, path)
    raise _damaged(path, f"a wrong value of {name} ({value!r})")


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path} has {what}; remove the folder of this cell to run it again")
