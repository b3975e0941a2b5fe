"""Medical Segmentation Decathlon tasks (and datasets laid out like them) to nnU-Net raw format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from dataset_conversion.cases import FileCase
from dataset_conversion.catalogue import MSD, MSD_TASKS, MsdTask
from dataset_conversion.engine import Dataset, Findings, convert, raw_folder
from dataset_conversion.options import Options
from dataset_conversion.source import children, opened
from dataset_conversion.splits import SEED, Split, hold_out
from dataset_conversion.volumes import is_nifti, nifti_ending, nifti_stem
from nnunet_ext.core.errors import UserError

_TASK_NAME = re.compile(r"Task(\d{2,3})_(\w+)", re.IGNORECASE)
_KEPT_KEYS = ("description", "release")


def convert_msd(source: Path, options: Options, validation: int | None = None) -> Path:
    """Convert one task.

    Args:
        source: task folder, a folder that holds exactly one, or the task's archive.
        options: the user's choices.
        validation: write a single fold that validates on so many cases, drawn with the fixed seed; None leaves the
            folds to nnU-Net.

    Returns:
        The dataset folder.

    Raises:
        UserError: no or several tasks, or one that is incomplete or damaged.
    """
    with opened(source, raw_folder() / f".unpacked-{source.name}") as (folder, temporary):
        task = find_task(folder)
        dataset = describe(task)
        findings = find_cases(task, dataset.file_ending)
        if validation is not None:
            findings.split = _single_fold(findings.names("Tr"), validation, task)
        return convert(dataset, findings, options, source=source, source_is_temporary=temporary)


def _single_fold(names: list[str], validation: int, task: Path) -> Split:
    if not 0 < validation < len(names):
        raise UserError(f"{task} has {len(names)} labelled cases, of which {validation} cannot be held out.")
    held_out = hold_out(names, validation)
    train = [name for name in names if name not in held_out]
    return Split(f"{validation} cases drawn with seed {SEED} to validate on", ({"train": train, "val": held_out},))


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
        level = [child for path in level for child in children(path) if child.is_dir()]
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
        extra={key: content[key] for key in _KEPT_KEYS if key in content},
    )


def find_cases(task: Path, file_ending: str) -> Findings:
    """Pair images and labels by name.

    Raises:
        UserError: an image has no label, a label has no image, or files listed in dataset.json are missing.
    """
    images, labels = _images_by_name(task / "imagesTr"), _images_by_name(task / "labelsTr")
    for name in images:
        if name not in labels:
            raise UserError(f"{images[name]} has no label: {task / 'labelsTr' / (name + file_ending)} is missing.")
    for name in labels:
        if name not in images:
            raise UserError(f"{labels[name]} has no image: {task / 'imagesTr' / (name + file_ending)} is missing.")
    tests = _images_by_name(task / "imagesTs")
    cases = [FileCase(name, "Tr", images[name], labels[name]) for name in images]
    return Findings([*cases, *(FileCase(name, "Ts", path) for name, path in tests.items())])


def _images_by_name(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for path in children(folder):
        if not is_nifti(path):
            continue
        name = nifti_stem(path)
        if name in found:
            raise UserError(f"{path} and {found[name].name} have the same case name; remove one of them.")
        found[name] = path
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not the description of a dataset.")
    return {str(key).strip(): value for key, value in content.items()}


def _channels(content: dict[str, Any], path: Path) -> list[str]:
    channels = content.get("modality") or content.get("channel_names")
    if not isinstance(channels, dict) or sorted(channels) != sorted(str(i) for i in range(len(channels))):
        raise UserError(f'{path} does not name its channels as "modality": {{"0": "CT", ...}}.')
    return [str(channels[str(i)]) for i in range(len(channels))]


def _labels(content: dict[str, Any], path: Path) -> dict[str, int]:
    """Labels by name, from the Decathlon's order ("1": "liver") or nnU-Net v2's ("liver": 1)."""
    wrong = UserError(f'{path} does not name its labels as "labels": {{"0": "background", "1": "liver", ...}}.')
    entries = content.get("labels")
    if not isinstance(entries, dict):
        raise wrong
    try:
        value_first = all(str(key).isdigit() for key in entries)
        labels = (
            {str(b): int(a) for a, b in entries.items()} if value_first else {a: int(b) for a, b in entries.items()}
        )
    except (TypeError, ValueError) as error:
        raise wrong from error
    # two labels of one name would have merged above and left a gap
    if sorted(labels.values()) != list(range(len(labels))):
        raise UserError(
            f"{path} numbers its labels {sorted(labels.values())}; nnU-Net needs 0, 1, 2, ... without gaps."
        )
    return labels


if __name__ == "__main__":
    from dataset_conversion.cli import main

    main("msd")
