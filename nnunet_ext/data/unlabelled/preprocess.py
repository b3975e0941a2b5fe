"""Preprocessing of unlabelled images with the plans of their dataset, by nnU-Net's own preprocessor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager

from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.core.nifti_length import check_complete
from nnunet_ext.core.processes import in_processes
from nnunet_ext.data.unlabelled.store import StoreRecord, case_files, files_fingerprint, plans_fingerprint, store_folder
from nnunet_ext.data.unlabelled.values import not_finite

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What was done for one configuration: cases made, found finished, and removed as their images are gone."""

    folder: Path
    made: int
    kept: int
    removed: int


@dataclass(frozen=True)
class _Job:
    plans: PlansManager
    configuration: ConfigurationManager
    dataset_json: dict[str, Any]
    folder: Path


def preprocess_images(
    images: Mapping[str, Sequence[Path]],
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset_json: dict[str, Any],
    preprocessed_dataset: Path,
    num_processes: int,
    progress: Progress,
) -> Outcome:
    """Preprocess the images of one configuration; what is finished, from the same files and plans, is kept.

    Args:
        images: files by case.
        plans: of the dataset.
        configuration: the one to preprocess for.
        dataset_json: its content.
        preprocessed_dataset: the dataset's folder in ``nnUNet_preprocessed``.
        num_processes: worker processes; 1 works in this one.
        progress: is told how many cases of how many are done.

    Raises:
        UserError: images cannot be preprocessed, and the others are kept; or another process is at it.
    """
    folder = store_folder(preprocessed_dataset, configuration.data_identifier)
    with _alone(folder):
        record = StoreRecord.read(folder)
        fingerprint = plans_fingerprint(plans.plans, configuration.configuration)
        if record.plans != fingerprint:
            record = StoreRecord(record.path, fingerprint)
        states = {case: files_fingerprint(files) for case, files in images.items()}
        record.cases = {
            case: state
            for case, state in record.cases.items()
            if states.get(case) == state and case_files(folder, case)
        }
        record.wanted = sorted(images)
        # Before any file: what the record does not name is not finished, and what is not finished is known to training.
        record.write()
        removed = _remove_others(folder, record.cases, images)
        kept = len(record.cases)
        to_do = {case: list(files) for case, files in images.items() if case not in record.cases}
        problems = []
        job = _Job(plans, configuration, dataset_json, folder)
        progress(kept, len(images))
        for (case, _), problem in in_processes(partial(_preprocess_case, job), list(to_do.items()), num_processes):
            if problem:
                problems.append(problem)
                continue
            record.cases[case] = states[case]
            record.write()
            progress(len(record.cases), len(images))
        if problems:
            raise UserError(
                f"{len(problems)} of {len(images)} unlabelled cases cannot be preprocessed: "
                f"{'; '.join(sorted(problems))}: replace them or take them out; the others are kept."
            )
        return Outcome(folder, len(to_do), kept, removed)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep another process from the folder meanwhile: it would remove what this one is making.

    Raises:
        UserError: another one is there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0)  # gone with the process that holds it
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"Another preprocess-unlabelled is at work in {folder}: wait until it has finished.") from error
    try:
        yield
    finally:
        lock.release()


def _remove_others(folder: Path, kept: Mapping[str, Any], images: Mapping[str, Any]) -> int:
    """Remove the files of all cases but ``kept``; returns how many of them have no image any more."""
    keep = {file.name for case in kept for file in case_files(folder, case)}
    gone = set()
    for file in folder.iterdir():
        if file.is_dir():
            shutil.rmtree(file)  # what a killed run left
        elif file.name not in keep:
            case = file.stem.removesuffix("_seg")
            if case not in images:
                gone.add(case)
            file.unlink()
    return len(gone)


def _preprocess_case(job: _Job, named: tuple[str, list[Path]]) -> str:
    """Preprocess one case into the folder, all of its files or none; returns what is wrong with it."""
    case, files = named
    from batchgenerators.utilities.file_and_folder_operations import load_pickle, write_pickle

    preprocessor = job.configuration.preprocessor_class(verbose=False)
    try:
        for file in files:
            try:
                check_complete(file)  # ITK would fill up with zeros what is missing
                wrong = not_finite(file, job.plans.image_reader_writer_class)
            except MemoryError:
                raise
            except Exception as error:
                return f"{file} ({last_line(error)})"
            if wrong:
                return f"{file} ({wrong} of its values are NaN or infinite: give them a number)"
        with tempfile.TemporaryDirectory(dir=job.folder) as made:
            # nnU-Net's own method, so that the format is that of the labelled cases
            preprocessor.run_case_save(
                str(Path(made) / case), list(map(str, files)), None, job.plans, job.configuration, job.dataset_json
            )
            properties = Path(made) / f"{case}.pkl"
            write_pickle({**load_pickle(str(properties)), "class_locations": {}}, str(properties))
            for file in Path(made).iterdir():
                file.replace(job.folder / file.name)
    except MemoryError:
        raise
    except Exception as error:  # whatever the imaging libraries raise for the many ways a file can be damaged
        return f"{files[0]}{' and its other channels' if len(files) > 1 else ''} ({last_line(error)})"
    return ""
