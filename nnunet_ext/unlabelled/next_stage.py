"""Predictions of unlabelled images for the next stage of a cascade; nnU-Net makes those of validation cases alone."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.configuration import default_num_processes
from nnunetv2.inference.export_prediction import resample_and_save
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.unlabelled.ready import preprocessing_command
from nnunet_ext.unlabelled.store import case_files, store_folder


def predict_for_next_stage(
    predict: Callable[[torch.Tensor], torch.Tensor],
    dataset: nnUNetBaseDataset,
    cases: Sequence[str],
    plans: PlansManager,
    stages: tuple[str, str],
    dataset_json: dict[str, Any],
    preprocessed_dataset: Path,
    output: Path,
) -> str:
    """Predict unlabelled images and keep the label maps where training of the next stage looks for them.

    Args:
        predict: makes logits (C, *spatial) of a preprocessed image (channels, *spatial).
        dataset: unlabelled images, preprocessed for this stage.
        cases: those of them to predict.
        plans: of the run.
        stages: names of the configurations of this stage and the next.
        dataset_json: its content.
        preprocessed_dataset: the dataset's folder in ``nnUNet_preprocessed``.
        output: folder for the label maps.

    Returns:
        What the user should know: images that are not preprocessed for the next stage are left out. Empty if all are.
    """
    this, following = (plans.get_configuration(stage) for stage in stages)
    folder = store_folder(preprocessed_dataset, following.data_identifier)
    there = [case for case in cases if case_files(folder, case)]
    output.mkdir(parents=True, exist_ok=True)
    processes = max(1, min(default_num_processes, len(there)))
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        pending: deque[Any] = deque()
        for case in there:
            data, _, _, properties = dataset.load_case(case)
            logits = predict(torch.from_numpy(np.array(data[:]))).cpu()
            if len(pending) > processes:  # logits are large: not many of them wait
                pending.popleft().result()
            dataset_class = infer_dataset_class(str(folder))
            shape = dataset_class(str(folder), [case]).load_case(case)[0].shape[1:]
            common = (plans, this, properties, dataset_json, 1, dataset_class)
            pending.append(pool.submit(resample_and_save, logits, shape, str(output / case), *common))
        for each in pending:
            each.result()
    lacking = len(cases) - len(there)
    if not lacking:
        return ""
    return (
        f"{lacking} of {len(cases)} unlabelled images are not preprocessed for {stages[1]}, which will lack their "
        f"predictions: run {preprocessing_command(plans, stages[1])}, then this training again with --val."
    )
