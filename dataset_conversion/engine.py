"""From a list of cases to a finished dataset in nnU-Net raw format.

The work goes to ``<nnUNet_raw>/.<dataset>.partial`` and that folder takes its name when everything is there, so that
nothing unfinished can be mistaken for a dataset. Each case leaves a record when it is done; a run after an
interruption takes it up from there. The source is only ever read.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dataset_conversion.checks import check_label_values, check_same_size, integer_labels
from dataset_conversion.source import natural_key
from dataset_conversion.volumes import Geometry, Volume, nifti_ending, read_header, read_volume, write_nifti
from nnunet_ext import __version__
from nnunet_ext.errors import UserError

Subset = Literal["Tr", "Ts"]
Mode = Literal["link", "copy"]
Check = Literal["full", "headers"]

console = Console(stderr=True)


@dataclass(frozen=True)
class Options:
    """What the user chose on the command line.

    Attributes:
        dataset_id: replaces the dataset's own number.
        mode: ``link`` leaves readable files where they are; ``copy`` makes the dataset independent of the source.
        processes: workers, each of which holds one case in memory.
        check: ``full`` reads every voxel once, ``headers`` trusts the voxels.
        dry_run: look at everything, write nothing.
        overwrite: replace a dataset of the same name.
    """

    dataset_id: int | None = None
    mode: Mode = "link"
    processes: int = 1
    check: Check = "full"
    dry_run: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Dataset:
    """What is true of the dataset as a whole.

    Attributes:
        number: its usual dataset id.
        name: nnU-Net's dataset name without the number.
        channel_names: by channel; decides nnU-Net's normalisation.
        labels: value by name, consecutive from background 0.
        licence: terms under which the data may be used.
        reference: where the data come from.
        file_ending: ``.nii.gz`` or ``.nii``, of every file nnU-Net will read.
        extra: further keys for dataset.json, ignored by nnU-Net.
    """

    number: int
    name: str
    channel_names: Sequence[str]
    labels: Mapping[str, int]
    licence: str
    reference: str
    file_ending: str = ".nii.gz"
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """One case as read.

    Attributes:
        channels: one volume per channel, all on one grid.
        label: label map on that grid; None for cases without labels.
        warnings: what the report should say about the case, one sentence each.
    """

    channels: Sequence[Volume]
    label: Volume | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case(ABC):
    """One case of the new dataset and where it comes from; sent to worker processes.

    Attributes:
        name: nnU-Net's case identifier.
        subset: ``Tr`` for labelled cases, ``Ts`` for test cases.
    """

    name: str
    subset: Subset

    @abstractmethod
    def sources(self) -> tuple[Path, ...]:
        """Files the case is made of."""

    @abstractmethod
    def check_headers(self) -> None:
        """Find, without reading voxels, what is wrong with the case; raises :class:`UserError`."""

    @abstractmethod
    def read(self, check: Check) -> Scan:
        """Read the case; raises :class:`UserError`."""


@dataclass(frozen=True)
class NiftiCase(Case):
    """A case whose image and label are NIfTI files.

    Attributes:
        image: 3D image, or 4D with one channel per volume.
        label: label map, None for test cases.
    """

    image: Path
    label: Path | None = None

    def sources(self) -> tuple[Path, ...]:
        """Image and label."""
        return (self.image,) if self.label is None else (self.image, self.label)

    def check_headers(self) -> None:
        """Compare the shapes of image and label."""
        image = read_header(self.image).geometry
        if len(image.size) not in (3, 4):
            raise UserError(f"{self.image} has {len(image.size)} dimensions; 3 or 4 are expected.")
        if self.label is not None:
            check_same_size(_spatial(image), read_header(self.label).geometry, self.image, self.label)

    def read(self, check: Check) -> Scan:
        """Read voxels where they are to be checked or have to be written anew; stamp the image's grid on the label."""
        image = read_header(self.image)
        if check == "full" or image.path is None or len(image.geometry.size) == 4:
            image = replace(read_volume(self.image), path=image.path)
        channels = _split_channels(image)
        if self.label is None:
            return Scan(channels, None)
        label = read_header(self.label)
        if check == "full" or label.path is None:
            label = read_volume(self.label)
        label, warnings = on_grid_of(label, channels[0].geometry, self.label)
        return Scan(channels, label, warnings)


def _spatial(geometry: Geometry) -> Geometry:
    """The grid of one volume of a 4D file."""
    if len(geometry.size) == 3:
        return geometry
    direction = np.reshape(geometry.direction, (4, 4))[:3, :3]
    return Geometry(geometry.size[:3], geometry.spacing[:3], geometry.origin[:3], tuple(direction.ravel().tolist()))


def _split_channels(image: Volume) -> list[Volume]:
    if len(image.geometry.size) == 3:
        return [image]
    assert image.array is not None
    return [Volume(_spatial(image.geometry), channel) for channel in image.array]


def on_grid_of(label: Volume, grid: Geometry, path: Path) -> tuple[Volume, tuple[str, ...]]:
    """Give a label map the geometry of its image, voxel for voxel, and say where its own header disagreed."""
    differences = grid.differences(label.geometry)
    warnings = (f"label header differs from the image's in {'; '.join(differences)}",) if differences else ()
    if grid.same_for_nnunet(label.geometry):
        return label, warnings
    if label.array is None:
        label = read_volume(path)
    return Volume(grid, label.array), warnings


@dataclass
class Record:
    """What became of one case; kept on disk while the dataset is unfinished.

    Attributes:
        name: case identifier.
        subset: see :class:`Case`.
        images: one path per channel, absolute or relative to the dataset folder.
        label: likewise.
        warnings: sentences for the report.
        fingerprint: sizes and times of the source files and the settings that matter.
    """

    name: str
    subset: Subset
    images: list[str] = field(default_factory=list)
    label: str | None = None
    warnings: list[str] = field(default_factory=list)
    fingerprint: str = ""


def raw_folder() -> Path:
    """The folder of nnU-Net's raw datasets.

    Raises:
        UserError: ``nnUNet_raw`` is not set.
    """
    value = os.environ.get("nnUNet_raw", "")
    if not value:
        raise UserError(
            "nnUNet_raw is not set: export nnUNet_raw=FOLDER, the folder your nnU-Net datasets are to lie in."
        )
    return Path(value).absolute()


def folder_name(dataset: Dataset, options: Options) -> str:
    """Name of the dataset's folder, ``Dataset<three digits>_<name>``."""
    number = dataset.number if options.dataset_id is None else options.dataset_id
    return f"Dataset{number:03d}_{dataset.name}"


def convert(
    dataset: Dataset,
    cases: Sequence[Case],
    options: Options,
    *,
    source: Path,
    skipped: Mapping[str, str] | None = None,
    source_is_temporary: bool = False,
) -> Path:
    """Build a dataset from its cases.

    Args:
        dataset: what is true of it as a whole.
        cases: its cases, in the order in which nnU-Net shall list them.
        options: the user's choices.
        source: what the user pointed at, for the report.
        skipped: reason by name of what was found and left out.
        source_is_temporary: the source was unpacked for this run, so its files are taken over instead of linked.

    Returns:
        The dataset folder (with ``dry_run`` the folder that would be made).

    Raises:
        UserError: the target is taken, or a case is wrong.
    """
    if source_is_temporary:
        options = replace(options, mode="copy")
    target = raw_folder() / folder_name(dataset, options)
    _check_target(target, options)
    if not any(case.subset == "Tr" for case in cases):
        raise UserError(f"{source} holds no labelled case.")
    for case in cases:
        case.check_headers()
    work = target.with_name(f".{target.name}.partial")
    if not options.dry_run:
        (work / "records").mkdir(parents=True, exist_ok=True)
        for subset in ("imagesTr", "labelsTr", "imagesTs"):
            (work / subset).mkdir(exist_ok=True)
    job = _Job(None if options.dry_run else work, dataset, options)
    records = sorted(_run(job, cases, options.processes), key=lambda record: natural_key(record.name))
    report = _report(dataset, records, options, source, skipped or {})
    if options.dry_run:
        console.print(f"Dry run: {target} would hold {_count(records)}.")
    else:
        _write_json(work / "conversion_report.json", report)
        _write_json(work / "dataset.json", _dataset_json(dataset, records))
        _publish(work, target)
        console.print(f"[bold]{target}[/bold] holds {_count(records)}.")
    _print_summary(report)
    return target


def _count(records: Sequence[Record]) -> str:
    train = sum(record.subset == "Tr" for record in records)
    return f"{train} labelled and {len(records) - train} test cases"


def _check_target(target: Path, options: Options) -> None:
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


@dataclass(frozen=True)
class _Job:
    """What a worker needs besides the case; ``folder`` is None for a dry run."""

    folder: Path | None
    dataset: Dataset
    options: Options

    def __call__(self, case: Case) -> Record:
        fingerprint = self._fingerprint(case)
        stamp = None if self.folder is None else self.folder / "records" / f"{case.name}.json"
        if stamp is not None and stamp.is_file():
            record = Record(**json.loads(stamp.read_text(encoding="utf-8")))
            if record.fingerprint == fingerprint:
                return record
        scan = case.read(self.options.check)
        if len(scan.channels) != len(self.dataset.channel_names):
            raise UserError(
                f"{case.sources()[0]} has {len(scan.channels)} channels, "
                f"and the dataset has {len(self.dataset.channel_names)} ({', '.join(self.dataset.channel_names)})."
            )
        record = Record(case.name, case.subset, warnings=list(scan.warnings), fingerprint=fingerprint)
        for volume in scan.channels:
            _check_finite(volume, case.sources()[0])
        if scan.label is not None:
            scan = replace(scan, label=self._checked_label(scan.label, case.sources()[-1], record))
        if self.folder is not None and stamp is not None:
            self._write(scan, record)
            _write_json(stamp, asdict(record))
        return record

    def _fingerprint(self, case: Case) -> str:
        files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in case.sources()]
        return "; ".join([__version__, self.options.mode, self.options.check, self.dataset.file_ending, *files])

    def _checked_label(self, label: Volume, path: Path, record: Record) -> Volume:
        if label.array is None:
            return label
        array, rounded = integer_labels(label.array, path)
        check_label_values(array, self.dataset.labels, path)
        if rounded:
            record.warnings.append("label values were rounded to integers")
            return Volume(label.geometry, array)
        return replace(label, array=array)

    def _write(self, scan: Scan, record: Record) -> None:
        assert self.folder is not None
        ending = self.dataset.file_ending
        for channel, volume in enumerate(scan.channels):
            name = f"images{record.subset}/{record.name}_{channel:04d}{ending}"
            record.images.append(self._place(volume, name, is_label=False))
        if scan.label is not None:
            record.label = self._place(scan.label, f"labels{record.subset}/{record.name}{ending}", is_label=True)

    def _place(self, volume: Volume, name: str, *, is_label: bool) -> str:
        """Put one file at ``name`` in the dataset, or leave it where it is; gives the path for dataset.json."""
        assert self.folder is not None
        target = self.folder / name
        usable = volume.path is not None and nifti_ending(volume.path) == self.dataset.file_ending
        if not usable or volume.path is None:
            array = volume.array if volume.array is not None or volume.path is None else read_volume(volume.path).array
            assert array is not None
            write_nifti(target, array.astype(np.uint8) if is_label else _compact(array), volume.geometry)
        elif self.options.mode == "copy":
            _copy(volume.path, target)
        elif name.startswith("imagesTs"):  # nnUNetv2_predict reads a folder, not dataset.json
            _link(volume.path, target)
        else:
            return str(volume.path.absolute())
        return name


def _check_finite(volume: Volume, path: Path) -> None:
    if volume.array is not None and volume.array.dtype.kind == "f" and not np.isfinite(volume.array).all():
        raise UserError(f"{path} holds voxels that are NaN or infinite, which nnU-Net refuses.")


def _compact(array: np.ndarray) -> np.ndarray:
    """Floats as int16 where nothing is lost, else as float32."""
    if array.dtype.kind != "f":
        return array
    if array.size and array.min() >= -(2**15) and array.max() < 2**15:
        integers = array.astype(np.int16)
        if np.array_equal(integers, array):
            return integers
    return array.astype(np.float32, copy=False)


def _link(source: Path, target: Path) -> None:
    """Symbolic link; where the system forbids it (Windows without developer mode) a hard link, else a copy."""
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source.absolute())
    except OSError:
        try:
            os.link(source, target)
        except OSError:
            _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        shutil.copyfile(source, temporary)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    temporary.write_text(json.dumps(content, indent=2), encoding="utf-8")
    temporary.replace(path)


def _run(job: _Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(_results(job, cases, processes), total=len(cases), description="Cases")


def _results(job: _Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    # starting workers costs more than reading headers
    if processes == 1 or job.options.check == "headers" or len(cases) == 1:
        yield from map(job, cases)
        return
    spawn = multiprocessing.get_context("spawn")  # fork is unsafe beside the progress bar's thread
    with ProcessPoolExecutor(min(processes, len(cases)), mp_context=spawn) as pool:
        futures = [pool.submit(job, case) for case in cases]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            raise UserError("A worker process was killed, probably for want of memory; try fewer with -np.") from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _dataset_json(dataset: Dataset, records: Sequence[Record]) -> dict[str, Any]:
    train = [record for record in records if record.subset == "Tr"]
    content: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(i): name for i, name in enumerate(dataset.channel_names)},
        "labels": dict(dataset.labels),
        "numTraining": len(train),
        "file_ending": dataset.file_ending,
        "licence": dataset.licence,
        "reference": dataset.reference,
        **dataset.extra,
    }
    if any(Path(path).is_absolute() for record in train for path in (*record.images, record.label or "")):
        content["dataset"] = {record.name: {"images": record.images, "label": record.label} for record in train}
    return content


def _report(
    dataset: Dataset, records: Sequence[Record], options: Options, source: Path, skipped: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "dataset": folder_name(dataset, options),
        "source": str(source.absolute()),
        "licence": dataset.licence,
        "reference": dataset.reference,
        "converted_by": f"nnunet_ext {__version__}",
        "mode": options.mode,
        "check": options.check,
        "converted": {f"images{subset}": [r.name for r in records if r.subset == subset] for subset in ("Tr", "Ts")},
        "skipped": dict(skipped),
        "warnings": {record.name: record.warnings for record in records if record.warnings},
    }


def _print_summary(report: Mapping[str, Any]) -> None:
    for title in ("skipped", "warnings"):
        entries = report[title]
        if not entries:
            continue
        console.print(f"{title.capitalize()} ({len(entries)}), all in conversion_report.json:")
        for name, text in list(entries.items())[:10]:
            console.print(f"  {name}: {text if isinstance(text, str) else '; '.join(text)}", markup=False)


def _publish(work: Path, target: Path) -> None:
    """Give the finished folder its name; a dataset that it replaces goes only then."""
    shutil.rmtree(work / "records")
    if not target.exists():
        work.replace(target)
        return
    old = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    work.replace(target)
    shutil.rmtree(old)
