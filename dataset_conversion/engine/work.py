"""One case at a time: read, checked, written, and its record kept; runs in worker processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_conversion import checks
from dataset_conversion.cases import Case, Scan, SkipCaseError, Subset
from dataset_conversion.dataset import Dataset
from dataset_conversion.engine.doubts import doubts_on, sentence, with_force
from dataset_conversion.formats.geometry import Geometry
from dataset_conversion.formats.volumes import Volume, nifti_ending, read_volume, write_nifti
from dataset_conversion.options import Options
from nnunet_ext import __version__
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import replaced_when_complete, write_text
from nnunet_ext.core.records import file_state, fingerprint, keep, kept

if TYPE_CHECKING:  # where only headers are looked at, importing numpy would take most of the time
    import numpy as np


@dataclass
class Record:
    """What became of one case; kept on disk while the dataset is unfinished.

    Attributes:
        name: case identifier.
        subset: see :class:`~dataset_conversion.cases.Case`.
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
    images: list[str] = field(default_factory=list)
    label: str | None = None
    orientation: str = ""
    warnings: list[str] = field(default_factory=list)
    skipped: str | None = None
    digest: str = ""
    problem: str | None = None


@dataclass(frozen=True)
class Job:
    """What a worker needs besides the case; ``folder`` is None for a dry run."""

    folder: Path | None
    dataset: Dataset
    options: Options

    def __call__(self, case: Case) -> Record:
        """Convert one case, or give the record of an earlier run that still holds."""
        record = Record(case.name, case.subset)
        try:
            made_from = self._made_from(case)
        except OSError as error:  # a link to a file that is gone, among others
            record.problem = sentence(error)
            return record
        stamp = None if self.folder is None else self.folder / "records" / f"{case.name}.json"
        finished = None if stamp is None else kept(stamp, made_from)
        if finished is not None:
            return Record(**finished)
        try:
            scan = self._checked(case.read(self.options.check), case, record)
        except SkipCaseError as reason:
            record.skipped = str(reason)
            return record
        except (UserError, OSError) as error:
            record.problem = sentence(error)
            return record
        if self.folder is not None and stamp is not None:
            self._write(scan, record)
            # nothing is gained by remembering a case of which only two headers were read
            if self.options.check == "full" or not all(Path(path).is_absolute() for path in record.images):
                keep(stamp, made_from, asdict(record))
        return record

    def _made_from(self, case: Case) -> str:
        """Fingerprint of the source files and the settings that matter."""
        files = [(path.name, file_state(path)) for path in case.sources()]
        options = (self.options.mode, self.options.check, self.options.force)
        return fingerprint(__version__, self.dataset, options, case, files)

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
            doubts = doubts_on(case.image_path, volume, self.dataset.field_of_view_mm)
            for text in (*doubts, checks.check_intensities(volume.array, name)):
                if text:
                    self._doubt(text, case.image_path, record)
            record.warnings.extend(note for note in volume.remarks.notes if note not in record.warnings)

    def _doubt(self, text: str, path: Path, record: Record) -> None:
        if not self.options.force:
            raise UserError(with_force(path, text))
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


def results(job: Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    """Give the record of each case when it is done, in no fixed order."""
    if job.options.check == "headers":  # they take less than starting workers, and less than importing what starts them
        yield from map(job, cases)
        return
    from nnunet_ext.core.processes import in_processes

    for _, record in in_processes(job, cases, processes):
        yield record


def check_images_differ(records: Sequence[Record], paths: Mapping[str, Path]) -> None:
    """Make sure that no two cases are the same image; ``paths`` are those of the images, by case."""
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


def write_json(path: Path, content: Any) -> None:
    """Write a file that is complete or not there."""
    write_text(path, json.dumps(content, indent=2))
