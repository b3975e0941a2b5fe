"""Predictions of unlabelled images for the next stage of a cascade; nnU-Net makes those of validation cases alone."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.data.unlabelled.ready import preprocessing_command
from nnunet_ext.data.unlabelled.store import case_files, store_folder

# The devices of a run wait for each other after so many cases, as in stock nnU-Net: NCCL gives up after ten minutes.
_CASES_BETWEEN_WAITS = 20


@dataclass(frozen=True)
class Share:
    """Which of several processes this one is, and how it waits for the others."""

    rank: int = 0
    size: int = 1
    wait: Callable[[], Any] = lambda: None


def predict_for_next_stage(
    predict: Callable[[torch.Tensor], torch.Tensor],
    dataset: nnUNetBaseDataset,
    plans: PlansManager,
    stages: tuple[str, str],
    dataset_json: dict[str, Any],
    preprocessed_dataset: Path,
    output: Path,
    log: Callable[[str], Any],
    share: Share = Share(),
) -> str:
    """Predict unlabelled images and keep the label maps where training of the next stage looks for them.

    Args:
        predict: makes logits (C, *spatial) of a preprocessed image (channels, *spatial).
        dataset: unlabelled images, preprocessed for this stage.
        plans: of the run.
        stages: names of the configurations of this stage and the next.
        dataset_json: its content.
        preprocessed_dataset: the dataset's folder in ``nnUNet_preprocessed``.
        output: folder for the label maps.
        log: is told which image is next.
        share: the images of this process; default: all.

    Returns:
        What the user should know: images that are not preprocessed for the next stage are left out. Empty if all are.
    """
    this, following = (plans.get_configuration(stage) for stage in stages)
    labels = plans.get_label_manager(dataset_json).foreground_labels
    folder = store_folder(preprocessed_dataset, following.data_identifier)
    cases = dataset.identifiers
    there = {case for case in cases if case_files(folder, case)}
    store = infer_dataset_class(str(folder))(str(folder), sorted(there)) if there else None
    output.mkdir(parents=True, exist_ok=True)
    # Threads: resampling leaves Python's lock while it computes, and what goes wrong in them is raised here.
    with ThreadPoolExecutor(default_num_processes) as pool:
        pending: deque[Future[None]] = deque()
        for i, case in enumerate(cases[share.rank :: share.size]):
            if store is not None and case in there:
                log(f"predicting the unlabelled {case}")
                data, _, previous, properties = dataset.load_case(case)
                image = np.array(data[:])
                if previous is not None:
                    image = np.vstack([image, convert_labelmap_to_one_hot(previous[:], labels, image.dtype)])
                logits = predict(torch.from_numpy(image)).cpu()
                if len(pending) == default_num_processes:  # logits are large: not many of them wait
                    pending.popleft().result()
                job = (logits, store.load_case(case)[0].shape[1:], plans, this, properties, dataset_json, type(store))
                pending.append(pool.submit(_resample, output, case, *job))
            if i + 1 < len(cases) // share.size and (i + 1) % _CASES_BETWEEN_WAITS == 0:
                share.wait()
        for each in pending:
            each.result()
    share.wait()
    lacking = len(cases) - len(there)
    if not lacking:
        return ""
    return (
        f"{lacking} of {len(cases)} unlabelled images are not preprocessed for {stages[1]}, which will lack their "
        f"predictions: run {preprocessing_command(plans, stages[1])}, then this training again with --val."
    )


def _resample(
    output: Path,
    case: str,
    logits: torch.Tensor,
    shape: tuple[int, ...],
    plans: PlansManager,
    configuration: Any,
    properties: dict[str, Any],
    dataset_json: dict[str, Any],
    dataset_class: type[nnUNetBaseDataset],
) -> None:
    """Write the label map of a case, all of it or nothing: other folds may write the same one at the same time."""
    threads = torch.get_num_threads()  # nnU-Net's function would set them
    with tempfile.TemporaryDirectory(dir=output) as made:
        truncated = str(Path(made) / case)
        resample_and_save(
            logits, shape, truncated, plans, configuration, properties, dataset_json, threads, dataset_class
        )
        for file in Path(made).iterdir():
            file.replace(output / file.name)
