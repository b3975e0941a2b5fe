"""A page that shows a raw dataset before anyone trains on it: each case in the slice with most foreground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_hex

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import KEY
from nnunet_ext.core.processes import in_processes
from nnunet_ext.evaluation.images import channel_names, grey_values, read_channels
from nnunet_ext.evaluation.reading import Readers, UnreadableError, find_readers, read_label_map
from nnunet_ext.evaluation.report import page_environment
from nnunet_ext.evaluation.slices import contour_picture, view_of
from nnunet_ext.evaluation.targets import LabelScheme, annotated_classes, label_scheme, read_dataset_json

_HIGHEST = 65535  # the highest value that dataset.json may name
# Bright on grey, and apart from each other.
_COLOURS = (
    "#22d3ee",
    "#fb923c",
    "#a3e635",
    "#f472b6",
    "#facc15",
    "#60a5fa",
    "#f87171",
    "#34d399",
    "#c084fc",
    "#fda4af",
)
_IGNORE, _IGNORE_COLOUR = "ignore", "#e2e8f0"


@dataclass(frozen=True)
class Files:
    """Files of a case.

    Attributes:
        case: Case identifier.
        images: A file for each channel, or one that holds them all.
        label: Label map.
    """

    case: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Picture:
    """What is shown of a case.

    Attributes:
        case: Case identifier.
        problem: Why it cannot be shown, else empty.
        channels: Picture of each channel, as ``data:`` URI.
        where: Which slice it is.
        size: Voxels and their size.
        volumes: Volume in ml of each class that is there.
        lacking: Classes that are not there, though they were annotated.
        remarks: What is odd about it.
    """

    case: str
    problem: str = ""
    channels: tuple[str, ...] = ()
    where: str = ""
    size: str = ""
    volumes: Mapping[str, float] = field(default_factory=dict)
    lacking: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Job:
    scheme: LabelScheme
    readers: Readers
    channels: tuple[str, ...]
    annotated: Mapping[str, tuple[int | str, ...]]


def training_files(folder: Path, dataset_json: Mapping[str, Any]) -> list[Files]:
    """Files of the labelled cases of a raw dataset, by case.

    Raises:
        UserError: If it has none, or lists them in a form that nnU-Net does not read.
    """
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    try:
        listed = get_filenames_of_train_images_and_targets(str(folder), {**dataset_json})
        found = [
            Files(case, tuple(map(Path, each["images"])), Path(each["label"])) for case, each in sorted(listed.items())
        ]
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist: {folder} is no raw dataset with labelled cases") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"'dataset' of {folder / 'dataset.json'} must be a table of cases, each with 'images' and 'label': mend it"
        ) from error
    if not found:
        raise UserError(f"{folder} has no labelled cases: there is nothing in imagesTr")
    return found


def spread(files: Sequence[Files], most: int) -> list[Files]:
    """At most so many of the cases, evenly from first to last."""
    chosen = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return [files[i] for i in chosen]


def preview_page(
    folder: Path, most: int, num_processes: int = 1, progress: Callable[[int, int, str], None] | None = None
) -> tuple[str, list[Picture]]:
    """HTML that shows a raw dataset, and what it shows.

    Args:
        folder: The raw dataset.
        most: Number of cases at most, chosen evenly.
        num_processes: Processes that read and draw.
        progress: Called with (cases done, cases in all, case).

    Raises:
        UserError: If the folder is no raw dataset with labelled cases.
    """
    dataset_json = read_dataset_json(folder / "dataset.json")
    scheme = label_scheme(dataset_json)
    files = training_files(folder, dataset_json)
    chosen = spread(files, most)
    job = _Job(
        scheme,
        find_readers(dataset_json),
        tuple(channel_names(dataset_json)),
        annotated_classes(dataset_json, scheme.targets),
    )
    drawn: dict[str, Picture] = {}
    for done, (each, picture) in enumerate(in_processes(partial(_picture, job), chosen, num_processes), start=1):
        drawn[each.case] = picture
        if progress is not None:
            progress(done, len(chosen), each.case)
    pictures = [drawn[each.case] for each in chosen]
    shown = [picture for picture in pictures if not picture.problem]
    classes = []
    for name, colour in class_colours(scheme).items():
        volumes = [picture.volumes[name] for picture in shown if name in picture.volumes]
        classes.append((name, colour, len(volumes), float(np.median(volumes)) if volumes else None))
    page = (
        page_environment()
        .get_template("preview.html.j2")
        .render(
            title=str(dataset_json.get("name") or folder.name),
            folder=folder,
            n_cases=len(files),
            n_shown=len(shown),
            pictures=pictures,
            channels=job.channels,
            classes=classes,
        )
    )
    return page, pictures


def class_colours(scheme: LabelScheme) -> dict[str, str]:
    """Colour of the contour of each class, and of the ignored voxels."""
    names = [target.name for target in scheme.targets]
    colours = list(_COLOURS[: len(names)])
    if len(names) > len(_COLOURS):
        colours = [to_hex(colour) for colour in colormaps["gist_rainbow"](np.linspace(0, 1, len(names)))]
    ignored = {} if scheme.ignore is None else {_IGNORE: _IGNORE_COLOUR}
    return {**dict(zip(names, colours, strict=True)), **ignored}


def shown_slice(voxels: Sequence[npt.NDArray[np.integer]]) -> int:
    """The slice with most foreground, that of each class in relation to its own largest slice; else the middle.

    Args:
        voxels: Of each class, the number in each slice.
    """
    shares = sum(own / max(int(own.max()), 1) for own in voxels)
    return int(np.argmax(shares)) if np.any(shares) else len(voxels[0]) // 2


def _picture(job: _Job, files: Files) -> Picture:
    try:
        return _drawn(job, files)
    except UnreadableError as error:
        return Picture(files.case, problem=str(error))


def _drawn(job: _Job, files: Files) -> Picture:
    label_map = read_label_map(files.label, job.readers)
    labels = label_map.array
    image = read_channels(files.images, job.readers)
    if image.shape[1:] != labels.shape:
        shapes = (" x ".join(map(str, shape)) for shape in (labels.shape, image.shape[1:]))
        return Picture(
            files.case, problem="{} has a label of {} voxels, and an image of {}".format(files.case, *shapes)
        )
    members = {target.name: target.members for target in job.scheme.targets}
    if job.scheme.ignore is not None:
        members[_IGNORE] = (job.scheme.ignore,)
    highest = int(labels.max())
    if highest > _HIGHEST:
        return Picture(files.case, problem=f"{files.label} holds {highest}, which dataset.json does not name")
    length = max(highest, *job.scheme.labels) + 1
    in_slices = np.stack([np.bincount(plane.ravel(), minlength=length) for plane in labels])
    counts = in_slices.sum(axis=0)
    unknown = sorted(set(np.flatnonzero(counts).tolist()) - set(job.scheme.labels))
    voxel_ml = float(np.prod(label_map.spacing[label_map.flat :])) / 1000
    found = {name: int(counts[list(values)].sum()) for name, values in members.items()}
    annotated = job.annotated.get(files.case, tuple(members))
    index = shown_slice([in_slices[:, list(values)].sum(axis=1) for values in members.values()])
    remarks = [label_map.remark] if label_map.remark else []
    if unknown:
        remarks.append(f"its label holds {', '.join(map(str, unknown))}, which dataset.json does not name")
    if files.case in job.annotated:
        remarks.append(f"{KEY}: {', '.join(map(str, annotated))}")
    view = view_of(label_map)
    masks = [
        (view.turned(np.isin(labels[index], members[name])), colour)
        for name, colour in class_colours(job.scheme).items()
    ]
    spacing = view.spacing(label_map.spacing)
    return Picture(
        files.case,
        channels=tuple(_channel(job, image, i, index, view.turned, masks, spacing) for i in range(len(image))),
        where=f"{view.plane} slice {index + 1} of {len(labels)}" if not label_map.flat else "",
        size=" x ".join(map(str, labels.shape[label_map.flat :]))
        + " voxels of "
        + " x ".join(f"{step:.3g}" for step in label_map.spacing[label_map.flat :])
        + " mm",
        volumes={name: count * voxel_ml for name, count in found.items() if count},
        lacking=tuple(
            target.name
            for target in job.scheme.targets
            if not found[target.name] and not {target.name, *target.members}.isdisjoint(annotated)
        ),
        remarks=tuple(remarks),
    )


def _channel(
    job: _Job,
    image: npt.NDArray[np.floating],
    number: int,
    index: int,
    turned: Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]],
    masks: Sequence[tuple[npt.NDArray[np.bool_], str]],
    spacing: tuple[float, float],
) -> str:
    name = job.channels[number] if number < len(job.channels) else ""
    background = turned(grey_values(image[number, index], name))
    return contour_picture(background, masks, spacing, width=3.2, dpi=120, lossy=True)
