"""``nnunet-ext views`` and ``nnunet-ext vote``: three views of a dataset, and the vote of their predictions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from nnunet_ext.cli.plans_files import read_json
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_text


def run_views(dataset: str, plans_name: str, gpu_memory_gb: float | None = None) -> None:
    """Write the plans of the second and the third view of a dataset.

    Args:
        dataset: its number or name.
        plans_name: file name of the plans of the first view, without ending.
        gpu_memory_gb: what the 2D configuration is planned for; default: the planner's own.

    Raises:
        UserError: something is missing, or the images are 2D.
    """
    raw, preprocessed = require_folder("nnUNet_raw"), require_folder("nnUNet_preprocessed")

    from nnunet_ext.views.turned_plans import VIEWS, plan_2d, turned_plans, view_name

    name = find_dataset(raw, dataset)
    file = preprocessed / name / f"{plans_name}.json"
    plans = read_json(file, f"run nnUNetv2_plan_and_preprocess -d {dataset} first", "plan again")
    made = []
    for view, order in VIEWS.items():
        turned_name = view_name(plans_name, view)
        planned = plan_2d(name, plans, order, turned_name, gpu_memory_gb)
        made.append((turned_name, turned_plans(plans, order, turned_name, planned)))
    console = Console(soft_wrap=True)
    for turned_name, turned in made:
        target = file.with_name(f"{turned_name}.json")
        write_text(target, json.dumps(turned, indent=4))
        patch, spacing = (turned["configurations"]["2d"][key] for key in ("patch_size", "spacing"))
        size = " x ".join(map(str, patch)), " x ".join(f"{step:.3g}" for step in spacing)
        console.print(f"{target}: 2d patches of {size[0]} pixels of {size[1]} mm", highlight=False)
    console.print("For each of them:", highlight=False)
    console.print(f"  nnUNetv2_preprocess -d {dataset} -plans_name NAME -c 2d", highlight=False)
    console.print(f"  nnUNetv2_train {dataset} 2d FOLD -p NAME -tr TRAINER", highlight=False)
    console.print("then nnUNetv2_predict with all three, and nnunet-ext vote.", highlight=False)


def run_vote(folders: Sequence[Path], output: Path) -> None:
    """Fuse folders of predictions by majority vote.

    Args:
        folders: two or more, with the same cases.
        output: folder for the result.

    Raises:
        UserError: a folder or a case is missing, or two predictions do not lie alike.
    """
    from nnunet_ext.evaluation.cases import model_folder
    from nnunet_ext.evaluation.reading import UnreadableError, find_readers, geometry_difference, read_label_map
    from nnunet_ext.evaluation.targets import read_dataset_json
    from nnunet_ext.views.majority import majority_vote

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
    console = Console(soft_wrap=True)
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
    console.print(f"{len(cases)} cases in {output}; {ties} of {voxels} voxels were tied", highlight=False)
    if ties:
        console.print(
            f"and went to the label of the higher summed probability in {with_probabilities} cases, of more votes "
            f"among the neighbours in {len(cases) - with_probabilities}.",
            highlight=False,
        )


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
