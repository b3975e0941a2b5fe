"""One fully labelled and several partially labelled datasets of nnU-Net's raw folder as one, without copying images.

The new dataset.json refers to the images where they are. Label maps are renumbered to the full set's labels, and
``annotated_labels`` says for each case which of them were annotated; their background says nothing of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset_conversion import checks
from dataset_conversion.cases import Case, Scan, on_grid_of
from dataset_conversion.engine import Dataset, Findings, check_target, convert, raw_folder
from dataset_conversion.formats.volumes import Volume, is_nifti, read_header, read_volume
from dataset_conversion.options import Check, Options
from dataset_conversion.organs import canonical, is_lesion_of
from dataset_conversion.plausible import ANY_PART_MM
from dataset_conversion.source import children
from dataset_conversion.splits import Split, k_folds
from nnunet_ext.core.errors import UserError, together
from nnunet_ext.core.label_sets import KEY

BACKGROUND, IGNORE = "background", "ignore"
_ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Request:
    """What the user wants of a partially labelled dataset.

    Attributes:
        text: as it was written, for messages.
        number: dataset id.
        organs: labels that count as each organ; none given means the one of the same name.
        left_out: labels that become background.
    """

    text: str
    number: int
    organs: Mapping[str, tuple[str, ...]]
    left_out: tuple[str, ...]


def parse_request(text: str) -> Request:
    """Read ``ID:ORGAN``, ``ID:ORGAN=LABEL+LABEL`` and ``ID:ORGAN,-LABEL``, with as many items as one likes.

    Raises:
        UserError: it is written otherwise.
    """
    number, colon, rest = text.partition(":")
    items = [item.strip() for item in rest.split(",")]
    if not colon or not number.strip().isdigit() or not all(item.strip("-= ") for item in items):
        raise UserError(f'--partial {text} is not of the form ID:ORGAN[,ORGAN...], such as 9:spleen or "503:liver".')
    organs: dict[str, tuple[str, ...]] = {}
    left_out = []
    for item in items:
        if item.startswith("-"):
            left_out.append(item[1:].strip())
            continue
        organ, _, labels = item.partition("=")
        organs[organ.strip()] = tuple(label.strip() for label in labels.split("+") if label.strip())
    if not organs:
        raise UserError(f"--partial {text} names no organ that was annotated.")
    return Request(text, int(number), organs, tuple(left_out))


@dataclass(frozen=True)
class RawDataset:
    """A dataset in nnU-Net raw format.

    Attributes:
        folder: where it is.
        labels: value by name.
        channel_names: by channel.
        file_ending: of its files.
        cases: paths of the channels and of the label map, by case.
        licence: as its dataset.json says.
        reference: likewise.
    """

    folder: Path
    labels: Mapping[str, int]
    channel_names: tuple[str, ...]
    file_ending: str
    cases: Mapping[str, tuple[tuple[Path, ...], Path]]
    licence: str
    reference: str

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name


@dataclass(frozen=True)
class UnionCase(Case):
    """A case of another raw dataset: its channels as they are, its label map renumbered.

    Attributes:
        images: one file per channel.
        label: label map.
        labels: its values, by name.
        values: new value by old one, for all values that do not become background.
    """

    images: tuple[Path, ...]
    label: Path
    labels: tuple[tuple[str, int], ...]
    values: tuple[tuple[int, int], ...]

    @property
    def image_path(self) -> Path:
        """The first channel."""
        return self.images[0]

    @property
    def label_path(self) -> Path:
        """The label map."""
        return self.label

    def sources(self) -> tuple[Path, ...]:
        """All channels and the label map."""
        return (*self.images, self.label)

    def check_headers(self) -> Sequence[tuple[Path, Volume]]:
        """Compare the shapes of image and label."""
        label = read_header(self.label).geometry
        headers = [(path, read_header(path)) for path in self.images]
        for path, header in headers:
            checks.check_same_size(header.geometry, label, path, self.label)
        return headers

    def read(self, check: Check) -> Scan:
        """Renumber the label map; read the images where they are to be checked and compared with all others."""
        channels = [read_volume(path) if check == "full" else read_header(path) for path in self.images]
        label, warnings = on_grid_of(read_volume(self.label), channels[0].geometry, self.label)
        assert label.array is not None
        array, _ = checks.integer_labels(label.array, self.label)
        checks.check_label_values(array, dict(self.labels), self.label)
        if any(old != new for old, new in self.values) or len(self.values) < len(self.labels):
            table = np.zeros(max(value for _, value in self.labels) + 1, np.uint16)
            for old, new in self.values:
                table[old] = new
            label = Volume(label.geometry, table[array])
        arrays = [channel.array for channel in channels if channel.array is not None]
        digest = image_digest(arrays) if check == "full" else ""
        return Scan(channels, label, warnings, digest)


def image_digest(channels: Sequence[np.ndarray]) -> str:
    """Hash of the voxel values of an image and how often each occurs.

    The same for copies that were stored in another number type, compressed anew, transposed or flipped.
    """
    digest = hashlib.sha256()
    for channel in channels:
        if channel.dtype.kind in "iu" and channel.dtype.itemsize <= 2:
            lowest = int(channel.min(initial=0))
            counts = np.bincount(channel.ravel().astype(np.int32) - lowest)
            values = np.flatnonzero(counts)
            counts, values = counts[values], values + lowest
        else:
            values, counts = np.unique(channel, return_counts=True)
        for part in (sorted(channel.shape), values, counts):
            digest.update(np.asarray(part, np.float64).tobytes())
    return digest.hexdigest()


def convert_union(
    name: str, full: int, partial: Sequence[str], options: Options, exclude: Sequence[str] | None = None
) -> Path:
    """Make one dataset of a fully labelled and several partially labelled ones.

    Args:
        name: of the new dataset, without number.
        full: id of the fully labelled dataset, whose labels the new one gets.
        partial: ``ID:ORGAN`` of each other one, see :func:`parse_request`.
        options: the user's choices; ``dataset_id`` is needed.
        exclude: cases of the new dataset to leave out.

    Returns:
        The dataset folder.

    Raises:
        UserError: the datasets do not fit together, a label is not accounted for, or two cases are the same image.
    """
    exclude = exclude or ()
    if options.dataset_id is None:
        raise UserError("A union has no usual dataset id: choose one with -d.")
    requests = [parse_request(text) for text in partial]
    if not requests:
        raise UserError("A union needs at least one --partial ID:ORGAN.")
    numbers = [full, *(request.number for request in requests)]
    for number in numbers:
        if numbers.count(number) > 1:
            raise UserError(f"Dataset {number} is named twice: name it once, with all of its organs after the colon.")
    base = read_raw_dataset(full)
    others = [read_raw_dataset(request.number) for request in requests]
    labels = {label: value for label, value in base.labels.items() if label != IGNORE}
    if any(IGNORE in source.labels for source in (base, *others)):
        labels[IGNORE] = max(labels.values()) + 1
    organs = [organ for organ in labels if organ not in (BACKGROUND, IGNORE)]

    findings = Findings()
    annotated: dict[str, list[str]] = {}
    taken: dict[str, dict[str, list[str]]] = {base.name: {organ: [organ] for organ in organs}}
    mapping = [(base.labels[label], value) for label, value in labels.items() if label in base.labels]
    seen: set[str] = set()  # excluded cases too: names do not depend on what is left out
    for case in _cases(base, mapping, seen, findings, exclude):
        annotated[case] = organs
    full_names = list(annotated)
    for request, source in zip(requests, others, strict=True):
        _check_same_form(base, source)
        by_organ = match_labels(request, source, organs, findings)
        taken[source.name] = by_organ
        mapping = [(source.labels[label], labels[organ]) for organ, group in by_organ.items() for label in group]
        mapping += [(source.labels[label], labels[label]) for label in (BACKGROUND, IGNORE) if label in source.labels]
        for case in _cases(source, mapping, seen, findings, exclude):
            annotated[case] = [organ for organ in organs if organ in by_organ]
    unknown = [case for case in exclude if case not in findings.skipped]
    if unknown:
        raise UserError(f"--exclude {unknown[0]}: the union has no case of that name.")
    if options.check == "headers":
        findings.notes.append("images were not compared with each other, for which --check full is needed")
    partial_names = [case for case in annotated if case not in full_names]
    findings.split = _split(base, full_names, partial_names)

    sources = (base, *others)
    dataset = Dataset(
        options.dataset_id,
        name,
        base.channel_names,
        labels,
        licence="; ".join(dict.fromkeys(source.licence for source in sources if source.licence)),
        reference="; ".join(dict.fromkeys(source.reference for source in sources if source.reference)),
        file_ending=base.file_ending,
        field_of_view_mm=ANY_PART_MM,
        extra={KEY: annotated, "union_of": taken},
    )
    check_target(dataset, options)
    return convert(dataset, findings, options, source=base.folder)


def _cases(
    source: RawDataset,
    mapping: Iterable[tuple[int, int]],
    seen: set[str],
    findings: Findings,
    exclude: Sequence[str],
) -> list[str]:
    """Add the cases of one dataset to the findings and their names to ``seen``, with the id in front where one is.

    Returns:
        The names of those that are not excluded.
    """
    clashes = [name for name in source.cases if name in seen]
    prefix = f"{source.name[: len('Dataset000')]}_" if clashes else ""
    if clashes:
        findings.notes.append(
            f"cases of {source.name} have {prefix} put before their names, as {clashes[0]} is taken already"
        )
    names = []
    for name, (images, label) in source.cases.items():
        new = prefix + name
        seen.add(new)
        if new in exclude:
            findings.skipped[new] = "left out with --exclude"
            continue
        names.append(new)
        known = tuple(source.labels.items())
        findings.cases.append(UnionCase(new, "Tr", images, label, known, tuple(mapping)))
    return names


def match_labels(
    request: Request, source: RawDataset, organs: Sequence[str], findings: Findings
) -> dict[str, list[str]]:
    """Which labels of a source count as which organ of the union; every one has to be accounted for.

    Besides the names that the user gives, those of :data:`~dataset_conversion.organs.SYNONYMS` are taken for the same,
    and lesions for a part of the only organ that was asked for. All of it goes into the notes.

    Raises:
        UserError: an organ or label does not exist, or a label is left over.
    """
    open_labels = [label for label in source.labels if label not in (BACKGROUND, IGNORE)]
    listed = ", ".join(open_labels)

    def take(wanted: str, group: Sequence[str], where: str) -> str:
        exact = [label for label in group if label == wanted]
        found = exact or [label for label in group if canonical(label) == canonical(wanted)]
        if len(found) != 1:
            problem = f"fits several labels ({', '.join(found)})" if found else f"is no label ({', '.join(group)})"
            raise UserError(f"--partial {request.text}: {wanted} {problem} of {where}.")
        return found[0]

    result: dict[str, list[str]] = {}
    for wanted, given in request.organs.items():
        organ = take(wanted, organs, "the fully labelled dataset")
        result[organ] = [take(label, [*source.labels], source.name) for label in given or (wanted,)]
    left_out = [take(label, [*source.labels], source.name) for label in request.left_out]
    used = [label for group in result.values() for label in group] + left_out
    for label in used:
        if label not in open_labels or used.count(label) > 1:
            raise UserError(
                f"--partial {request.text} uses {label} of {source.name} twice or as an organ: it has {listed}."
            )
    for label in open_labels:
        if label in used:
            continue
        only = next(iter(result)) if len(result) == 1 else None
        # a lesion without an organ in its name belongs to the only organ of its dataset
        alone = all(other in result.get(only or "", ()) or is_lesion_of(other, only or "") for other in open_labels)
        if only is None or not alone or not is_lesion_of(label, only) or any(is_lesion_of(o, only) for o in organs):
            raise UserError(
                f"--partial {request.text} does not say what {label} of {source.name} is: write ORGAN=LABEL+{label} to "
                f"count it as an organ, or add ,-{label} to leave it out (its voxels then are no organ named here)."
            )
        result[only].append(label)
    for organ, group in result.items():
        findings.notes.append(f"{organ} is what {source.name} calls {' and '.join(group)}")
    if left_out:
        findings.notes.append(
            f"{', '.join(left_out)} of {source.name} is left out: its voxels count as not {' or '.join(result)}"
        )
    return result


def _check_same_form(base: RawDataset, source: RawDataset) -> None:
    for what, mine, theirs, how in (
        ("channels", ", ".join(base.channel_names), ", ".join(source.channel_names), ""),
        ("file ending", base.file_ending, source.file_ending, " (LiTS with --compressed is .nii.gz)"),
    ):
        if mine != theirs:
            raise UserError(
                f"{source.folder / 'dataset.json'} has {what} {theirs} and {base.name} has {mine}: a union needs the "
                f"same, so convert one of the two anew{how}."
            )


def _split(base: RawDataset, full: Sequence[str], partial: Sequence[str]) -> Split:
    """Folds of the fully labelled cases, those of their dataset where it has some; the others only train."""
    path = base.folder / "splits_final.json"
    folds = _read_folds(path) if path.is_file() else None
    rule = f"the folds of {base.name}"
    if folds is None:
        drawn = k_folds(full, min(5, len(full))) if len(full) > 1 else None
        if drawn is None:
            raise UserError(f"{base.folder} has too few cases to train and to validate on: at least two are needed.")
        folds, rule = drawn.folds, f"fully labelled cases: {drawn.rule}"
    else:
        known = {case for fold in folds for part in ("train", "val") for case in fold[part]}
        if not known <= set(base.cases):
            raise UserError(f"{path} names case {min(known - set(base.cases))}, which {base.name} has not: remove it.")
        folds = [{part: [case for case in fold[part] if case in full] for part in ("train", "val")} for fold in folds]
        if not all(fold[part] for fold in folds for part in ("train", "val")):
            raise UserError(f"{path} has a fold without cases to train or to validate on once --exclude is heeded.")
    return Split(
        f"{rule}; all partially labelled cases train in every fold",
        tuple({"train": [*fold["train"], *partial], "val": list(fold["val"])} for fold in folds),
    )


def _read_folds(path: Path) -> Sequence[Mapping[str, list[str]]]:
    folds = _read_json(path)
    if not isinstance(folds, list) or not folds or not all(_is_fold(fold) for fold in folds):
        raise UserError(f'{path} is no list of folds, each with the cases to "train" and to "val"; remove it.')
    return folds


def _is_fold(fold: Any) -> bool:
    parts = [fold.get(part) if isinstance(fold, dict) else None for part in ("train", "val")]
    return all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts)


def read_raw_dataset(number: int) -> RawDataset:
    """Find a dataset in nnU-Net's raw folder by its id and read what it is made of.

    Raises:
        UserError: it is not there, or a union cannot be made of it.
    """
    found = [path for path in children(raw_folder()) if path.name.startswith(f"Dataset{number:03d}_") and path.is_dir()]
    if len(found) != 1:
        state = f"has several datasets of id {number}" if found else f"holds no Dataset{number:03d}_*"
        raise UserError(f"{raw_folder()} {state}: convert it first with nnunet-ext convert.")
    folder = found[0]
    path = folder / "dataset.json"
    content = _read_json(path)
    try:
        labels = {str(name): value for name, value in content["labels"].items()}
        channels = tuple(str(content["channel_names"][str(i)]) for i in range(len(content["channel_names"])))
        ending = str(content["file_ending"])
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} has no usable labels, channel_names or file_ending.") from error
    if KEY in content:
        raise UserError(f"{path} has {KEY}: it is a union itself, so name the datasets that it was made of.")
    if not all(type(value) is int for value in labels.values()):
        raise UserError(
            f"{path} has labels that are regions or no numbers, of which no union can be made: use plain labels."
        )
    if sorted(labels.values()) != list(range(len(labels))) or labels.get(BACKGROUND) != 0:
        raise UserError(f"{path} does not number its labels 0, 1, 2, ... from background on.")
    if ending not in _ENDINGS:
        raise UserError(f"{path} has file ending {ending}: a union is made of NIfTI files ({', '.join(_ENDINGS)}).")
    listed = "dataset" in content
    cases = _listed_cases(path, content) if listed else _cases_in_folders(folder, ending, len(channels))
    if not cases:
        raise UserError(f"{folder} holds no labelled case.")
    missing = [
        UserError(f"{file} of {folder.name} is missing: restore it, or convert that dataset anew.")
        for images, label in cases.values()
        for file in (*images, label)
        if not file.is_file()
    ]
    if missing:
        raise together(missing)
    licence, reference = (str(content.get(key, "")) for key in ("licence", "reference"))
    return RawDataset(folder, labels, channels, ending, cases, licence, reference)


def _listed_cases(path: Path, content: Mapping[str, Any]) -> dict[str, tuple[tuple[Path, ...], Path]]:
    def resolve(file: str) -> Path:
        return path.parent / os.path.expandvars(file)

    entries = content["dataset"]
    cases = {}
    for name, entry in entries.items() if isinstance(entries, dict) else [("dataset", None)]:
        images, label = (entry.get(part) if isinstance(entry, dict) else None for part in ("images", "label"))
        files = images if isinstance(images, list) else [None]
        if not isinstance(label, str) or not all(isinstance(file, str) for file in files):
            raise UserError(f"{path} does not name the images and the label of {name} as nnU-Net does.")
        cases[name] = (tuple(map(resolve, files)), resolve(label))
    return cases


def _cases_in_folders(folder: Path, ending: str, channels: int) -> dict[str, tuple[tuple[Path, ...], Path]]:
    labels = folder / "labelsTr"
    found, others = {}, []
    for label in children(labels) if labels.is_dir() else []:
        if label.name.endswith(ending):
            name = label.name[: -len(ending)]
            images = tuple(folder / "imagesTr" / f"{name}_{i:04d}{ending}" for i in range(channels))
            found[name] = (images, label)
        elif is_nifti(label):
            others.append(UserError(f"{label} does not end in {ending}, as dataset.json says: rename it."))
    if others:  # nnU-Net passes over them without a word
        raise together(others)
    return found


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error
