"""``nnunet-ext views`` and ``nnunet-ext vote``: three views of a dataset, and the vote of their predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from nnunet_ext.cli.plans_files import read_json
from nnunet_ext.core.environment import find_dataset, require_folder
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
    from nnunet_ext.views.folders import vote_folders

    counts = vote_folders(folders, output)
    console = Console(soft_wrap=True)
    console.print(
        f"{counts.cases} cases in {output}; {counts.ties} of {counts.voxels} voxels were tied", highlight=False
    )
    if counts.ties:
        console.print(
            f"and went to the label of the higher summed probability in {counts.with_probabilities} cases, of more "
            f"votes among the neighbours in {counts.cases - counts.with_probabilities}.",
            highlight=False,
        )
