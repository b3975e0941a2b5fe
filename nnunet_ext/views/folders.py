"""Folders of predictions as one, by majority vote."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.cases import model_folder
from nnunet_ext.evaluation.reading import UnreadableError, find_readers, geometry_difference, read_label_map
from nnunet_ext.evaluation.targets import read_dataset_json
from nnunet_ext.views.majority import majority_vote


@dataclass(frozen=True)
class VoteCounts:
    """What a vote came to.

    Attributes:
        cases: number of them.
        voxels: of all cases.
        ties: voxels where several labels had as many votes.
        with_probabilities: cases whose ties the probabilities have decided.
    """

    cases: int
    voxels: int
    ties: int
    with_probabilities: int


def vote_folders(folders: Sequence[Path], output: Path) -> VoteCounts:
    """Fuse folders of predictions by majority vote.

    Args:
        folders: two or more, with the same cases.
        output: folder for the result.

    Returns:
        How many voxels were tied.

    Raises:
        UserError: a folder or a case is missing, or two predictions do not lie alike.
    """
    if len(folders) < 2:
        raise UserError("A vote takes two folders of predictions or more.")
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder}: name folders of predictions.")
        if output.resolve() == folder.resolve():
            raise UserError(f"{output} holds predictions to be fused: name another folder with -o.")
    places = [place for folder in folders for place in (folder, model_folder(folder))]
    found = next((place / "dataset.json" for place in places if (place / "dataset.json").is_file()), None)
    if found is None:
        raise UserError(f"There is no dataset.json in {folders[0]}: copy that of the dataset there.")
    dataset_json = read_dataset_json(found)
    ending = dataset_json["file_ending"]
    cases = _common_cases(folders, ending)
    readers = find_readers(dataset_json)
    has_regions = any(isinstance(value, list) for value in dataset_json["labels"].values())
    output.mkdir(parents=True, exist_ok=True)
    ties = voxels = with_probabilities = 0
    for case in cases:
        try:
            maps = [read_label_map(folder / f"{case}{ending}", readers) for folder in folders]
        except UnreadableError as error:
            raise UserError(f"{error}: predict it again.") from error
        for folder, one in zip(folders[1:], maps[1:], strict=True):
            difference = geometry_difference(maps[0], one)
            if difference:
                raise UserError(f"{folder / case}{ending} does not lie as in {folders[0]}: {difference}.")
        probabilities = None if has_regions else _probabilities(folders, case, maps[0].array.shape)
        vote = majority_vote([one.array for one in maps], probabilities)
        reader = maps[0].reader
        _, properties = reader().read_seg(str(folders[0] / f"{case}{ending}"))
        reader().write_seg(vote.labels, str(output / f"{case}{ending}"), properties)
        ties, voxels = ties + vote.ties, voxels + vote.labels.size
        with_probabilities += probabilities is not None
    shutil.copyfile(found, output / "dataset.json")
    return VoteCounts(len(cases), voxels, ties, with_probabilities)


def _common_cases(folders: Sequence[Path], ending: str) -> list[str]:
    """Cases of the folders, which must be the same."""
    cases = [{file.name.removesuffix(ending) for file in folder.glob(f"*{ending}")} for folder in folders]
    everything = set.union(*cases)
    if not everything:
        raise UserError(f"{folders[0]} holds no files that end in {ending}: name folders of predictions.")
    for folder, there in zip(folders, cases, strict=True):
        lacking = sorted(everything - there)
        if lacking:
            raise UserError(f"{folder} lacks {lacking[0]} ({len(lacking)} of {len(everything)} cases): predict it.")
    return sorted(everything)


def _probabilities(folders: Sequence[Path], case: str, shape: tuple[int, ...]) -> list[Any] | None:
    """What ``nnUNetv2_predict --save_probabilities`` left of a case; ``None`` unless it did so in every folder."""
    files = [folder / f"{case}.npz" for folder in folders]
    if not all(file.is_file() for file in files):
        return None
    probabilities = []
    for file in files:
        try:
            with np.load(file) as content:
                probabilities.append(content["probabilities"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise UserError(f"{file} holds no probabilities ({error}): delete it or predict again.") from error
        if probabilities[-1].shape[1:] != shape:
            raise UserError(f"{file} is not of the shape of its label map: delete it or predict again.")
    return probabilities
