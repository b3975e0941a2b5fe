"""Medical Segmentation Decathlon tasks (and datasets laid out like them) to nnU-Net raw format."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from dataset_conversion.cases import FileCase
from dataset_conversion.catalogue import MSD, MSD_TASKS, MsdTask
from dataset_conversion.checks import BACKGROUND, check_label_table
from dataset_conversion.engine import Dataset, Findings
from dataset_conversion.formats.volumes import is_nifti, nifti_ending, nifti_stem
from dataset_conversion.plausible import ANY_PART_MM
from dataset_conversion.source import children, folders_in, is_junk
from dataset_conversion.splits import SEED, Split, hold_out
from nnunet_ext.core.errors import UserError, last_line

_TASK_NAME = re.compile(r"Task(\d{2,3})_(\w+)", re.IGNORECASE)
_KEPT_KEYS = ("description", "release")
#: What label 0 is called in descriptions, in any case.
_BACKGROUND_NAMES = (BACKGROUND, "back ground", "bg", "unlabeled", "unlabelled", "clear label", "none", "other", "rest")
_OTHER_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".img", ".img.gz", ".hdr", ".mgz", ".mgh", ".dcm", ".npy", ".npz")


def _hold_out(names: list[str], validation: int, task: Path) -> list[str]:
    if not 0 < validation < len(names):
        raise UserError(f"{task} has {len(names)} labelled cases, of which {validation} cannot be held out.")
    return hold_out(names, validation)


def find_task(folder: Path, depth: int = 3) -> Path:
    """Find the one task folder in ``folder`` or at most ``depth`` levels below it.

    Raises:
        UserError: there is none, or there are several.
    """
    level = [folder]
    for _ in range(depth + 1):
        tasks = [path for path in level if (path / "imagesTr").is_dir()]
        if len(tasks) > 1:
            names = ", ".join(task.name for task in tasks)
            raise UserError(f"{folder} holds several tasks ({names}); point at one of them.")
        if tasks:
            return tasks[0]
        level = [child for path in level for child in folders_in(path)]
    raise UserError(f"{folder} holds no Decathlon task: no folder with imagesTr was found.")


def describe(task: Path) -> Dataset:
    """Read a task's dataset.json, or fall back on what is known of the ten official tasks.

    Raises:
        UserError: the folder's name has no task number, or the description is missing or unusable.
    """
    match = _TASK_NAME.fullmatch(task.name)
    if match is None:
        raise UserError(f"{task} is not named Task<number>_<name>, which the dataset id is taken from; rename it.")
    number, name = int(match[1]), match[2]
    path = task / "dataset.json"
    if path.is_file():
        content = _read_json(path)
        channels = _channels(content, path)
        labels = _labels(content, path)
    elif number in MSD_TASKS and name.lower().startswith(MSD_TASKS[number].name.lower()):
        known: MsdTask = MSD_TASKS[number]
        content, channels = {}, list(known.channels)
        labels = {"background": 0} | {label: value for value, label in enumerate(known.labels, start=1)}
    else:
        raise UserError(f"{path} is missing; without it the names of channels and labels are unknown.")
    endings = [nifti_ending(p) for p in children(task / "imagesTr") if is_nifti(p)]
    return Dataset(
        number,
        name,
        channels,
        labels,
        licence=str(content.get("licence") or content.get("license") or MSD.licence),
        reference=str(content.get("reference") or MSD.url),
        file_ending=".nii" if endings and set(endings) == {".nii"} else ".nii.gz",
        field_of_view_mm=ANY_PART_MM,
        extra={key: content[key] for key in _KEPT_KEYS if key in content},
    )


def find_cases(folder: Path, validation: int | None = None, labelled: float = 1.0, draw: int = 0) -> Findings:
    """Pair images and labels of a task by name, and compare what is there with what dataset.json lists.

    Args:
        folder: the task, or a folder that holds exactly one.
        validation: write a single fold that validates on so many cases, drawn with the fixed seed; None leaves the
            folds to nnU-Net.
        labelled: fraction of the other cases whose labels are used; the rest goes to ``imagesUn``.
        draw: which random draw of them.

    Returns:
        The findings, with the dataset that the task describes.

    Raises:
        UserError: no or several tasks, two files of the same case name, or a dataset.json that cannot be read.
    """
    task = find_task(folder)
    dataset = describe(task)
    findings = Findings(dataset=dataset)
    file_ending = dataset.file_ending
    images, labels, tests = (_images_by_name(task / name, findings) for name in ("imagesTr", "labelsTr", "imagesTs"))
    for name in sorted(images.keys() - labels.keys()):
        wanted = task / "labelsTr" / (name + file_ending)
        findings.problems.append(UserError(f"{images[name]} has no label: {wanted} is missing."))
    for name in sorted(labels.keys() - images.keys()):
        wanted = task / "imagesTr" / (name + file_ending)
        findings.problems.append(UserError(f"{labels[name]} has no image: {wanted} is missing."))
    findings.cases += [FileCase(name, "Tr", path, labels[name]) for name, path in images.items() if name in labels]
    findings.cases += [FileCase(name, "Ts", path) for name, path in tests.items()]
    _compare_with_list(task, findings, images, labels, tests)
    names = findings.names("Tr")
    held_out = [] if validation is None else _hold_out(names, validation, task)
    train = findings.keep_labels([name for name in names if name not in held_out], labelled, draw)
    if held_out:
        rule = f"{validation} cases drawn with seed {SEED} to validate on"
        findings.split = Split(rule, ({"train": train, "val": held_out},))
    return findings


def _images_by_name(folder: Path, findings: Findings) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in children(folder):
        if path.name.lower().endswith(_OTHER_FORMATS):
            findings.problems.append(
                UserError(f"{path} is no NIfTI file, as those of a Decathlon task are: convert it to .nii.gz.")
            )
        if not is_nifti(path):
            continue
        name = nifti_stem(path)
        if name in found:
            raise UserError(f"{path} and {found[name].name} have the same case name; remove one of them.")
        found[name] = path
    return found


def _compare_with_list(
    task: Path, findings: Findings, images: dict[str, Path], labels: dict[str, Path], tests: dict[str, Path]
) -> None:
    """Name the cases that dataset.json promises and that are not there, and those that it does not list."""
    path = task / "dataset.json"
    content = _read_json(path) if path.is_file() else {}
    for key, folder, found in (("training", "imagesTr", images | labels), ("test", "imagesTs", tests)):
        listed = _listed(content.get(key), path, key)
        missing = [name for name in listed if name not in found]
        if missing:
            some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            findings.doubts.append(
                f"{path} lists {len(listed)} cases in {folder}, of which {len(missing)} are not there as NIfTI files: "
                f"{some}; restore them, or leave them out with --force."
            )
            findings.skipped.update(dict.fromkeys(missing, "listed in dataset.json, but not there"))
        unlisted = [name for name in found if name not in listed]
        if listed and unlisted:
            findings.notes.append(
                f"{len(unlisted)} cases in {folder} are not listed in dataset.json: {unlisted[0]} ..."
            )
    promised = content.get("numTraining")
    if not isinstance(content.get("training"), list) and isinstance(promised, int) and promised != len(images):
        findings.doubts.append(
            f"{path} promises {promised} training cases and {len(images)} are there; restore the missing ones, or "
            "leave them out with --force."
        )


def _listed(entries: Any, path: Path, key: str) -> list[str]:
    """Case names of one list of dataset.json, whose items are file names or hold them; ``._`` files are none."""
    if entries is None:
        return []
    names = []
    for entry in entries if isinstance(entries, list) else [None]:
        name = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not name.strip():
            raise UserError(f'{path} has a list "{key}" whose items do not name their image.')
        file = PurePosixPath(name.replace("\\", "/"))
        if not is_junk(file.name):
            names.append(nifti_stem(Path(file.name)) if is_nifti(Path(file.name)) else file.name.partition(".")[0])
    return list(dict.fromkeys(names))


def _read_json(path: Path) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for key, count in Counter(key.strip() for key, _ in pairs).items():
            if count > 1:  # of two labels of one number the first would vanish without a word
                raise UserError(f'{path} has "{key}" twice in the same place; remove one.')
        return {key.strip(): value for key, value in pairs}

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({last_line(error)}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not the description of a dataset.")
    return content


def _channels(content: dict[str, Any], path: Path) -> list[str]:
    channels = content.get("modality") or content.get("channel_names")
    if (
        not isinstance(channels, dict)
        or sorted(channels) != sorted(str(i) for i in range(len(channels)))
        or not all(isinstance(name, str) and name.strip() for name in channels.values())
    ):
        raise UserError(f'{path} does not name its channels as "modality": {{"0": "CT", ...}}.')
    return [channels[str(i)].strip() for i in range(len(channels))]


def _labels(content: dict[str, Any], path: Path) -> dict[str, int]:
    """Labels by name, from the Decathlon's order ("1": "liver") or nnU-Net v2's ("liver": 1).

    Label 0 is called "background", as nnU-Net needs it, where the description has another word for it or none.
    """
    wrong = UserError(f'{path} does not name its labels as "labels": {{"0": "background", "1": "liver", ...}}.')
    entries = content.get("labels")
    if not isinstance(entries, dict) or not entries:
        raise wrong
    value_first = all(key.isdecimal() for key in entries)
    pairs = list(entries.items()) if value_first else [(value, key) for key, value in entries.items()]
    labels: dict[str, int] = {}
    for value, name in pairs:
        if not isinstance(name, str) or not name.strip() or not _is_number(value):
            raise wrong
        if name.strip() in labels:
            raise UserError(f'{path} calls two labels "{name.strip()}"; give each a name of its own.')
        labels[name.strip()] = int(value)
    return with_background(labels, path)


def _is_number(value: Any) -> bool:
    return value.isdecimal() if isinstance(value, str) else type(value) is int and value >= 0


def with_background(labels: dict[str, int], path: Path) -> dict[str, int]:
    """The table with label 0 first and called "background".

    Raises:
        UserError: label 0 is something else, or nnU-Net cannot plan with the table.
    """
    zero = [name for name, value in labels.items() if value == 0]
    others = {name: value for name, value in labels.items() if value != 0}
    if zero and zero[0].casefold() not in _BACKGROUND_NAMES:
        raise UserError(f'{path} calls label 0 "{zero[0]}", which nnU-Net takes for background; renumber the labels.')
    taken = [name for name in others if name.casefold() == BACKGROUND]
    if taken:
        raise UserError(f'{path} calls label {others[taken[0]]} "{taken[0]}", which is the name of label 0; rename it.')
    result = {BACKGROUND: 0, **others}
    check_label_table(result, path)
    return result
