"""``nnunet-ext preprocess-unlabelled``: checks everything, then preprocesses, and tells what it does."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nnunet_ext.cli.plans_files import read_json
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.images import check_images, check_no_copies, find_images
from nnunet_ext.data.unlabelled.store import RAW_FOLDER, dataset_number

# Of nnUNetv2_preprocess, by configuration; what is not named there has the default.
_PROCESSES = {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}
_DEFAULT_PROCESSES = 4


def run_preprocess(
    dataset: str, configurations: Sequence[str], plans_name: str, num_processes: int | None = None
) -> None:
    """Preprocess the unlabelled images of a dataset.

    Args:
        dataset: its number or name.
        configurations: those of the plans to preprocess for; none: all whose labelled cases are preprocessed.
        plans_name: file name of the plans, without ending.
        num_processes: worker processes; default: those of nnUNetv2_preprocess, at most one per core.

    Raises:
        UserError: something is missing, or an image does not fit.
    """
    raw_root, preprocessed_root = require_folder("nnUNet_raw"), require_folder("nnUNet_preprocessed")

    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    from nnunet_ext.data.unlabelled.preprocess import preprocess_images

    name = find_dataset(raw_root, dataset)
    raw, preprocessed = raw_root / name, preprocessed_root / name
    number = dataset_number(name)
    advice = f"run nnUNetv2_plan_and_preprocess -d {number} first"
    others = ", ".join(sorted(plans_in(preprocessed) - {plans_name})) or "none"
    plans_advice = f"{advice} (ResEnc plans: with -pl nnUNetPlannerResEncM), or name others with -p (there: {others})"
    plans_content = read_json(preprocessed / f"{plans_name}.json", plans_advice)
    dataset_json = read_json(preprocessed / "dataset.json", advice)
    plans = PlansManager(plans_content)
    chosen = choose_configurations(plans, configurations, preprocessed)

    training = get_filenames_of_train_images_and_targets(str(raw), read_json(raw / "dataset.json", "mend the dataset"))
    if not training:
        raise UserError(f"{raw} has no training images to compare with: mend the dataset.")
    training_images = {case: [Path(file) for file in entry["images"]] for case, entry in training.items()}
    channels = max(len(files) for files in training_images.values())
    images = find_images(raw / RAW_FOLDER, dataset_json["file_ending"], channels, training_images)
    check_no_copies(images, training_images)

    console = Console(soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    named = dataset_json.get("channel_names", dataset_json.get("modality", {}))  # the second as in older datasets
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("headers", total=None)
        check_images(
            images,
            training_images,
            plans.image_reader_writer_class,
            len(named),
            lambda done, total: bar.update(task, completed=done, total=total),
        )
    for configuration in chosen:
        processes = num_processes or default_processes(configuration)
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(configuration, total=len(images))
            outcome = preprocess_images(
                images,
                plans,
                plans.get_configuration(configuration),
                dataset_json,
                preprocessed,
                processes,
                lambda done, total, bar=bar, task=task: bar.update(task, completed=done, total=total),  # type: ignore[misc]
            )
        parts = [f"{outcome.made} preprocessed"]
        parts += [f"{outcome.kept} were finished"] if outcome.kept else []
        parts += [f"{outcome.removed} removed, as their images are gone"] if outcome.removed else []
        console.print(f"{configuration}: {', '.join(parts)}; in {outcome.folder}", highlight=False)
    waiting = without_labelled_cases(plans, configurations or plans.available_configurations, preprocessed)
    if waiting:
        console.print(
            f"Labelled images are not preprocessed for {', '.join(waiting)}: to train there, run nnUNetv2_preprocess "
            f"-d {number} -plans_name {plans_name} -c {' '.join(waiting)}"
            f"{'' if configurations else ' and this again'}.",
            highlight=False,
        )


def default_processes(configuration: str) -> int:
    """Worker processes for a configuration: as many as nnUNetv2_preprocess starts, but no more than there are cores."""
    return min(_PROCESSES.get(configuration, _DEFAULT_PROCESSES), os.cpu_count() or 1)


def plans_in(preprocessed: Path) -> set[str]:
    """Names of the plans in a dataset's folder in ``nnUNet_preprocessed``, whatever the user has called them."""
    found = set()
    for path in preprocessed.glob("*.json"):
        with contextlib.suppress(OSError, ValueError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content, dict) and "configurations" in content:
                found.add(path.stem)
    return found


def choose_configurations(plans: Any, wanted: Sequence[str], preprocessed: Path) -> list[str]:
    """The configurations to preprocess for, of those that share their data one.

    Args:
        plans: nnU-Net's plans manager.
        wanted: names; none: all whose labelled cases are preprocessed.
        preprocessed: the dataset's folder in ``nnUNet_preprocessed``.

    Raises:
        UserError: the plans do not have one of them, or nothing is preprocessed.
    """
    known = plans.available_configurations
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{preprocessed}/{plans.plans_name}.json has no configuration {name}: it has {', '.join(known)}."
            )
    left_out = [] if wanted else without_labelled_cases(plans, known, preprocessed)
    chosen: dict[str, str] = {}
    for name in wanted or known:
        if name not in left_out:
            chosen.setdefault(plans.get_configuration(name).data_identifier, name)
    if not chosen:
        raise UserError(f"{preprocessed} has no preprocessed cases: run nnUNetv2_preprocess first, or choose with -c.")
    return list(chosen.values())


def without_labelled_cases(plans: Any, names: Sequence[str], preprocessed: Path) -> list[str]:
    """Those of the configurations whose labelled cases are not preprocessed."""
    return [name for name in names if not (preprocessed / plans.get_configuration(name).data_identifier).is_dir()]
