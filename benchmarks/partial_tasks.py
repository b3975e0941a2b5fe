"""Partial labels out of full ones: a task of the Decathlon as several, whose union PaNN is tried on.

    python benchmarks/partial_tasks.py PATH/Task04_Hippocampus OUTPUT --full 4

Cases are drawn at random: some to validate on (``--validation``) and so many (``--full``) with all labels, as
Task52_Full; for each label an equal part of the others, with that label alone, as Task53, Task54, ... Images are links.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

FIRST = 52


def write_task(source: Path, task: Path, cases: Sequence[str], labels: Mapping[str, str], kept: Sequence[str]) -> None:
    """A task of some cases with some labels.

    Args:
        source: the task that they are taken from.
        task: its folder.
        cases: names.
        labels: of dataset.json, names by number.
        kept: numbers of the labels that are annotated, from now on 1, 2, ...; voxels of others become background.
    """
    for folder in ("imagesTr", "labelsTr"):
        (task / folder).mkdir(parents=True, exist_ok=True)
    for case in cases:
        image = task / "imagesTr" / f"{case}.nii.gz"
        if not image.is_symlink():
            image.symlink_to((source / "imagesTr" / image.name).resolve())
        truth = sitk.ReadImage(str(source / "labelsTr" / image.name))
        values = sitk.GetArrayFromImage(truth)
        numbered = sum(i * (values == int(key)) for i, key in enumerate(kept, start=1))
        erased = sitk.GetImageFromArray(np.asarray(numbered, np.uint8))
        erased.CopyInformation(truth)
        sitk.WriteImage(erased, str(task / "labelsTr" / image.name), True)
    content = json.loads((source / "dataset.json").read_text()) | {
        "labels": {str(i): name for i, name in enumerate(["background", *(labels[key] for key in kept)])},
        "numTraining": len(cases),
        "training": [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases],
        "numTest": 0,
        "test": [],
    }
    (task / "dataset.json").write_text(json.dumps(content, indent=1))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="folder of a Decathlon task")
    parser.add_argument("output", type=Path, help="folder for the new tasks")
    parser.add_argument("--validation", type=int, default=20, help="cases to validate on")
    parser.add_argument("--full", type=int, default=20, help="cases to train with all labels")
    parser.add_argument("--draw", type=int, default=0, help="number of the random draw")
    arguments = parser.parse_args()
    labels = json.loads((arguments.task / "dataset.json").read_text())["labels"]
    organs = [number for number in labels if number != "0"]
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (arguments.task / "labelsTr").glob("*.nii.gz"))
    order = [str(case) for case in np.random.default_rng(arguments.draw).permutation(cases)]
    number_of_full = arguments.validation + arguments.full
    whole, others = order[:number_of_full], order[number_of_full:]
    parts = {"Full": (whole, organs)}
    for i, number in enumerate(organs):
        parts[labels[number].replace(" ", "_")] = (others[i :: len(organs)], [number])
    for number, (name, (some, kept)) in enumerate(parts.items(), start=FIRST):
        write_task(arguments.task, arguments.output / f"Task{number}_{name}", sorted(some), labels, kept)


if __name__ == "__main__":
    main()
