"""From a list of cases to a finished dataset in nnU-Net raw format.

The work goes to ``<nnUNet_raw>/.<dataset>.partial`` and that folder takes its name when everything is there, so that
nothing unfinished can be mistaken for a dataset. Each case leaves a record when it is done; a run after an
interruption takes it up from there. The source is only ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dataset_conversion import checks
from dataset_conversion.cases import Case, Scan, SkipCaseError, Subset
from dataset_conversion.options import Options
from dataset_conversion.plausible import ABDOMEN_MM, implausible
from dataset_conversion.remarks import together
from dataset_conversion.source import natural_key
from dataset_conversion.splits import Split
from dataset_conversion.volumes import (
    Geometry,
    Volume,
    nifti_ending,
    read_volume,
    write_nifti,
)
from nnunet_ext import __version__
from nnunet_ext.core.environment import folder_value
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import replaced_when_complete, write_text

if TYPE_CHECKING:  # where only headers are looked at, importing numpy would take most of the time
    import numpy as np

console = Console(stderr=True, soft_wrap=True)


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
        field_of_view_mm: shortest and longest plausible length of an image's longest edge.
        extra: further keys for dataset.json, ignored by nnU-Net.
    """

    number: int
    name: str
    channel_names: Sequence[str]
    labels: Mapping[str, int]
    licence: str
    reference: str
    file_ending: str = ".nii.gz"
    field_of_view_mm: tuple[float, float] = ABDOMEN_MM
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Findings:
    """What a converter found in the source.

    Attributes:
        cases: to be converted.
        skipped: reason by name of what was left out.
        notes: sentences on the dataset as a whole.
        problems: what is wrong with single cases; the conversion stops once all have been looked at.
        doubts: sentences on what most likely is a mistake; with ``--force`` they are notes.
        split: folds for ``splits_final.json``; None leaves them to nnU-Net.
    """

    cases: list[Case] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[UserError] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    split: Split | None = None

    def names(self, subset: Subset) -> list[str]:
        """Names of the cases of one subset, in their order."""
        return [case.name for case in self.cases if case.subset == subset]

    def note_missing(self, what: str, known: Sequence[int], found: Sequence[int]) -> None:
        """Note which of the known case numbers were not found."""
        missing = sorted(set(known) - set(found))
        if missing:
            self.notes.append(f"{len(missing)} of {len(known)} {what} were not found: {_ranges(missing)}")


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as ``1-3, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


@dataclass
class Record:
    """What became of one case; kept on disk while the dataset is unfinished.

    Attributes:
        name: case identifier.
        subset: see :class:`~dataset_conversion.cases.Case`.
        fingerprint: sizes and times of the source files and the settings that matter.
        images: one path per channel, absolute or relative to the dataset folder.
        label: likewise.
        orientation: axis codes of the image, such as ``LPS``.
        warnings: sentences for the report.
        skipped: why the case was left out.
        digest: hash of the image, empty where images are not compared.
        problem: why the case cannot be converted, which stops the conversion when all cases have been looked at.
    """

    name: str
    subset: Subset
    fingerprint: str
    images: list[str] = field(default_factory=list)
    label: str | None = None
    orientation: str = ""
    warnings: list[str] = field(default_factory=list)
    skipped: str | None = None
    digest: str = ""
    problem: str | None = None


def raw_folder() -> Path:
    """The folder of nnU-Net's raw datasets.

    Raises:
        UserError: ``nnUNet_raw`` is not set, or has quotes or a ``~`` in it.
    """
    return Path(folder_value("nnUNet_raw")).absolute()


def folder_name(dataset: Dataset, options: Options) -> str:
    """Name of the dataset's folder, ``Dataset<three digits>_<name>``."""
    number = dataset.number if options.dataset_id is None else options.dataset_id
    return f"Dataset{number:03d}_{dataset.name}"


def convert(
    dataset: Dataset, findings: Findings, options: Options, *, source: Path, source_is_temporary: bool = False
) -> Path:
    """Build a dataset from its cases.

    Args:
        dataset: what is true of it as a whole.
        findings: its cases and what else was found.
        options: the user's choices.
        source: what the user pointed at, for the report.
        source_is_temporary: the source was unpacked for this run, so nothing may refer to it later.

    Returns:
        The dataset folder (with ``dry_run`` the folder that would be made).

    Raises:
        UserError: the target is taken, or a case is wrong.
    """
    if source_is_temporary:
        options = replace(options, mode="copy")
    target = check_target(dataset, options)
    checks.check_label_table(dataset.labels, source)
    cases = sorted(findings.cases, key=lambda case: natural_key(case.name))
    if not findings.problems:
        _check_cases(cases, source)
    _check_sources_stay(cases, target)
    _check_preprocessed_split(target.name, findings.split)
    _check_headers(cases, dataset, findings, options)
    work = target.with_name(f".{target.name}.partial")
    subsets = {case.subset for case in cases} | {"Ts"}  # nnU-Net's own tools expect imagesTs
    if not options.dry_run:
        for name in ("records", "imagesTr", "labelsTr", *(f"images{subset}" for subset in subsets)):
            (work / name).mkdir(parents=True, exist_ok=True)
    # without the further keys of dataset.json, which say nothing of a single case: its record outlives a change of them
    job = _Job(None if options.dry_run else work, replace(dataset, extra={}), options)
    done = {record.name: record for record in _run(job, cases, options.processes)}
    problems = [UserError(problem) for case in cases if (problem := done[case.name].problem) is not None]
    if problems:
        raise together(problems)
    records = [done[case.name] for case in cases if done[case.name].skipped is None]
    _check_images_differ(records, {case.name: case.image_path for case in cases})
    findings.skipped.update({name: r.skipped for name, r in done.items() if r.skipped is not None})
    report = _report(dataset, records, findings, options, source)
    if not options.dry_run:
        _write_json(work / "conversion_report.json", report)
        if findings.split is not None:
            _write_json(work / "splits_final.json", _without(findings.split, findings.skipped))
        _write_json(work / "dataset.json", _dataset_json(dataset, records))
        _publish(work, target, {path for record in records for path in (*record.images, record.label or "")})
    _print_summary(report, target, options)
    return target


def _check_cases(cases: Sequence[Case], source: Path) -> None:
    if not any(case.subset == "Tr" for case in cases):
        raise UserError(f"{source} holds no labelled case of this dataset; --help says what to point at.")
    name, count = Counter(case.name for case in cases).most_common(1)[0]
    if count > 1:
        first, second = [case.image_path for case in cases if case.name == name][:2]
        raise UserError(f"{first} and {second} are both case {name}; point at one copy of the dataset.")


def _check_images_differ(records: Sequence[Record], paths: Mapping[str, Path]) -> None:
    first: dict[str, str] = {}
    pairs = []
    for record in records:
        other = first.setdefault(record.digest, record.name) if record.digest else record.name
        if other != record.name:
            pairs.append((other, record.name))
    if pairs:
        (one, other), more = pairs[0], f", and so are {len(pairs) - 1} more pairs" if len(pairs) > 1 else ""
        raise UserError(
            f"Cases {one} and {other} are the same image ({paths[one]} and {paths[other]}){more}; leave one of each "
            f"out, for example with {' '.join(f'--exclude {name}' for _, name in pairs)}."
        )


def _check_sources_stay(cases: Sequence[Case], target: Path) -> None:
    """The dataset that is replaced must not hold what the new one is made of."""
    if not target.exists():
        return
    absolute, resolved = target.absolute(), target.resolve()
    for case in cases:
        for path in case.sources():
            if absolute in path.absolute().parents or resolved in path.resolve().parents:
                raise UserError(f"{path} lies in {target}, which would be replaced; choose another -d.")


def check_target(dataset: Dataset, options: Options) -> Path:
    """Give the folder the dataset will get.

    Raises:
        UserError: nnUNet_raw is not set, the dataset exists already, or its id belongs to another dataset.
    """
    target = raw_folder() / folder_name(dataset, options)
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
    return target


def _check_preprocessed_split(name: str, split: Split | None) -> None:
    """nnU-Net's planning stops with a bare assertion where the preprocessed folder holds other folds."""
    folder = os.environ.get("nnUNet_preprocessed")
    path = Path(folder, name, "splits_final.json") if folder else None
    if split is None or path is None or not path.is_file():
        return
    if json.loads(path.read_text(encoding="utf-8"))[: len(split.folds)] != list(split.folds):
        raise UserError(
            f"{path} holds other folds, from an earlier conversion; remove that folder or choose another -d."
        )


@dataclass(frozen=True)
class _Job:
    """What a worker needs besides the case; ``folder`` is None for a dry run."""

    folder: Path | None
    dataset: Dataset
    options: Options

    def __call__(self, case: Case) -> Record:
        record = Record(case.name, case.subset, "")
        try:
            record.fingerprint = self._fingerprint(case)
        except OSError as error:  # a link to a file that is gone, among others
            record.problem = _sentence(error)
            return record
        stamp = None if self.folder is None else self.folder / "records" / f"{case.name}.json"
        if stamp is not None and stamp.is_file():
            finished = Record(**json.loads(stamp.read_text(encoding="utf-8")))
            if finished.fingerprint == record.fingerprint:
                return finished
        try:
            scan = self._checked(case.read(self.options.check), case, record)
        except SkipCaseError as reason:
            record.skipped = str(reason)
            return record
        except (UserError, OSError) as error:
            record.problem = _sentence(error)
            return record
        if self.folder is not None and stamp is not None:
            self._write(scan, record)
            # nothing is gained by remembering a case of which only two headers were read
            if self.options.check == "full" or not all(Path(path).is_absolute() for path in record.images):
                _write_json(stamp, asdict(record))
        return record

    def _fingerprint(self, case: Case) -> str:
        files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in case.sources()]
        settings = (__version__, self.dataset, self.options.mode, self.options.check, self.options.force, case, files)
        return hashlib.sha256(repr(settings).encode()).hexdigest()

    def _checked(self, scan: Scan, case: Case, record: Record) -> Scan:
        if len(scan.channels) != len(self.dataset.channel_names):
            raise UserError(
                f"{case.image_path} has {len(scan.channels)} channels, "
                f"and the dataset has {len(self.dataset.channel_names)} ({', '.join(self.dataset.channel_names)})."
            )
        record.digest = scan.digest
        record.warnings.extend(scan.warnings)
        record.orientation = _axis_codes(scan.channels[0].geometry)
        for volume in scan.channels:
            if volume.array is not None and not _is_finite(volume.array):
                raise UserError(f"{case.image_path} holds voxels that are NaN or infinite, which nnU-Net refuses.")
        self._question(scan, case, record)
        if scan.label is None or scan.label.array is None:
            return scan
        array, rounded = checks.integer_labels(scan.label.array, case.label_path)
        checks.check_label_values(array, self.dataset.labels, case.label_path)
        if (doubt := checks.check_share_of_organs(array)) is not None:
            self._doubt(doubt, case.label_path, record)
        self._check_orientation(scan.channels[0].array, array, case.label_path, record)
        if rounded:
            record.warnings.append("label values were rounded to integers")
        return replace(scan, label=Volume(scan.label.geometry, array, None if rounded else scan.label.path))

    def _question(self, scan: Scan, case: Case, record: Record) -> None:
        """Raise :class:`UserError` where a channel cannot be right; with ``--force`` that is a warning."""
        for name, volume in zip(self.dataset.channel_names, scan.channels, strict=True):
            for text in (*_doubts(case.image_path, volume, self.dataset), checks.check_intensities(volume.array, name)):
                if text:
                    self._doubt(text, case.image_path, record)
            record.warnings.extend(note for note in volume.remarks.notes if note not in record.warnings)

    def _doubt(self, text: str, path: Path, record: Record) -> None:
        if not self.options.force:
            raise UserError(_with_force(path, text))
        if text not in record.warnings:
            record.warnings.append(text)

    def _check_orientation(self, image: np.ndarray | None, label: np.ndarray, path: Path, record: Record) -> None:
        value = checks.telling_label(self.dataset.labels)
        if image is None or value is None:
            return
        expected = checks.CT if self.dataset.channel_names[0].upper() == "CT" else checks.MR
        found = checks.check_orientation(image, label == value, expected)
        if found is None or found.plausible:
            return
        organ = next(name for name, number in self.dataset.labels.items() if number == value)
        measured = (
            f"the image under {organ} has median {found.median:.0f} and its 5th and 95th percentile are "
            f"{found.spread:.3g}{' medians' if expected.relative else ''} apart"
        )
        if found.better and not self.options.force:
            raise UserError(
                f"{path} does not lie on its image ({measured}), but would if flipped along {found.better}; "
                "mend it, or convert it as it is with --force."
            )
        hint = f"; a flip along {found.better} would fit better" if found.better else ""
        record.warnings.append(f"label may not lie on its image: {measured}{hint}")

    def _write(self, scan: Scan, record: Record) -> None:
        ending = self.dataset.file_ending
        for channel, volume in enumerate(scan.channels):
            name = f"images{record.subset}/{record.name}_{channel:04d}{ending}"
            record.images.append(self._place(volume, name, is_label=False))
        if scan.label is not None:
            record.label = self._place(scan.label, f"labels{record.subset}/{record.name}{ending}", is_label=True)

    def _label_type(self) -> str:
        return "uint8" if max(self.dataset.labels.values()) < 2**8 else "uint16"

    def _place(self, volume: Volume, name: str, *, is_label: bool) -> str:
        """Put one file at ``name`` in the dataset, or leave it where it is; gives the path for dataset.json."""
        assert self.folder is not None
        target = self.folder / name
        if volume.path is None or nifti_ending(volume.path) != self.dataset.file_ending:
            if volume.array is None:
                assert volume.path is not None
                volume = replace(volume, array=read_volume(volume.path).array)
            assert volume.array is not None
            write_nifti(
                target, volume.array.astype(self._label_type()) if is_label else _compact(volume.array), volume.geometry
            )
        elif self.options.mode == "copy" or "$" in str(volume.path.absolute()):  # nnU-Net expands variables in paths
            with replaced_when_complete(target, by_process=True) as temporary:
                shutil.copyfile(volume.path, temporary)
        elif is_label or name.startswith(("imagesTs", "imagesUn")):
            # These nnU-Net reads as folders, labels too (nnUNetv2_find_best_configuration); the rest by dataset.json.
            _link(volume.path, target)
        else:
            return str(volume.path.absolute())
        return name


def _check_headers(cases: Sequence[Case], dataset: Dataset, findings: Findings, options: Options) -> None:
    """Look at the headers of all cases and say at once what is wrong with any of them, or was found before."""
    problems: list[UserError | str] = [*findings.problems]
    doubts = list(findings.doubts)
    for case in cases:
        try:
            for path, header in case.check_headers():
                doubts += [_with_force(path, text) for text in _doubts(path, header, dataset)]
        except (UserError, OSError) as error:
            problems.append(_sentence(error))
    if problems or (doubts and not options.force):
        raise together([*problems, *([] if options.force else doubts)])
    findings.notes.extend(text.partition("; ")[0] for text in findings.doubts)


def _doubts(path: Path, image: Volume, dataset: Dataset) -> list[str]:
    """What most likely is wrong with an image's grid; raises :class:`UserError` where it cannot be used at all."""
    if image.remarks.fault:
        raise UserError(f"{path} {image.remarks.fault}.")
    grid = image.geometry
    found = implausible(grid.size[:3], grid.spacing[:3], image.unit, dataset.field_of_view_mm)
    return [*image.remarks.doubts, *([found] if found else [])]


def _with_force(path: Path, doubt: str) -> str:
    return f"{path} {doubt}; mend it, or convert it as it is with --force."


def _sentence(error: UserError | OSError) -> str:
    if isinstance(error, UserError):
        return str(error)
    return f"{error.filename or 'A file'} cannot be read: {error.strerror or error}."


def _axis_codes(geometry: Geometry) -> str:
    """Where the axes x, y, z of the array point, e.g. ``LPS``."""
    axes = [geometry.direction[column::3] for column in range(3)]
    main = [max(range(3), key=lambda row: abs(axis[row])) for axis in axes]
    return "".join(("LR", "PA", "SI")[m][int(axis[m] < 0)] for m, axis in zip(main, axes, strict=True))


def _is_finite(array: np.ndarray) -> bool:
    import numpy as np

    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _compact(array: np.ndarray) -> np.ndarray:
    """Floats as int16 where nothing is lost, else as float32; wide integers as int32."""
    import numpy as np

    if array.dtype.kind != "f":
        return array if array.dtype.itemsize <= 4 else array.astype(np.int32)
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
            shutil.copyfile(source, target)


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2))


def _run(job: _Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(_results(job, cases, processes), total=len(cases), description="Cases")


def _results(job: _Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    if job.options.check == "headers":  # they take less than starting workers, and less than importing what starts them
        yield from map(job, cases)
        return
    from nnunet_ext.core.processes import in_processes

    for _, record in in_processes(job, cases, processes):
        yield record


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


def _without(split: Split, names: Mapping[str, str]) -> list[dict[str, list[str]]]:
    return [{part: [n for n in cases if n not in names] for part, cases in fold.items()} for fold in split.folds]


def _report(
    dataset: Dataset, records: Sequence[Record], findings: Findings, options: Options, source: Path
) -> dict[str, Any]:
    split = findings.split
    orientations = Counter(record.orientation for record in records)
    if len(orientations) > 1:
        found = ", ".join(f"{code} {count}" for code, count in orientations.most_common())
        findings.notes.append(f"images have different orientations, which nnU-Net ignores: {found}")
    return {
        "dataset": folder_name(dataset, options),
        "source": str(source.absolute()),
        "licence": dataset.licence,
        "reference": dataset.reference,
        "converted_by": f"nnunet_ext {__version__}",
        "mode": options.mode,
        "check": options.check,
        "converted": {
            f"images{subset}": [r.name for r in records if r.subset == subset]
            for subset in ("Tr", "Ts", "Un")
            if any(r.subset == subset for r in records)
        },
        "orientations": dict(orientations),
        "skipped": findings.skipped,
        "notes": findings.notes,
        "warnings": {record.name: record.warnings for record in records if record.warnings},
        "split": {"rule": split.rule, "folds": _without(split, findings.skipped)} if split else None,
    }


def _print_summary(report: Mapping[str, Any], target: Path, options: Options) -> None:
    counts = ", ".join(f"{len(names)} in {folder}" for folder, names in report["converted"].items())
    verb = "would get" if options.dry_run else "has"
    console.print(f"{target} {verb} these cases: {counts}.", markup=False, highlight=False)
    for note in report["notes"]:
        console.print(f"Note: {note}.", markup=False, highlight=False)
    for title in ("skipped", "warnings"):
        for name, text in list(report[title].items())[:10]:
            lines = text if isinstance(text, str) else "; ".join(text)
            console.print(f"{title.capitalize()}: {name}: {lines}", markup=False, highlight=False)
        if len(report[title]) > 10:
            console.print(f"... and {len(report[title]) - 10} more, in conversion_report.json")
    if report["split"]:
        console.print(f"Split: {report['split']['rule']}.", markup=False, highlight=False)
        for index, fold in enumerate(report["split"]["folds"]):
            text = f"  fold {index}: {len(fold['train'])} to train, {len(fold['val'])} to validate: "
            console.print(text + " ".join(fold["val"]), markup=False, highlight=False)
    console.print(f"Terms of the data: {report['licence']}.", markup=False, highlight=False)
    if not options.dry_run:
        number = int(target.name[len("Dataset") : len("Dataset000")])
        command = f"nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity"
        console.print(f"Next: {command}", markup=False, highlight=False)


def _publish(work: Path, target: Path, names: set[str]) -> None:
    """Give the finished folder its name; a dataset that it replaces goes only then.

    Args:
        work: the finished folder.
        target: its name.
        names: relative paths of the dataset's files; others are left from an earlier, interrupted run and go.
    """
    shutil.rmtree(work / "records")
    for path in work.glob("*/*"):
        if path.relative_to(work).as_posix() not in names:
            path.unlink()
    if (work / "imagesUn").is_dir() and not any((work / "imagesUn").iterdir()):
        (work / "imagesUn").rmdir()
    if not target.exists():
        work.replace(target)
        return
    old = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    target.replace(old)
    work.replace(target)
    shutil.rmtree(old)
