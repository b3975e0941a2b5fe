"""What benchmarks of trained models share: a folder of results, its validation cases and a predictor of a fold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.paths import nnUNet_raw
from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ext.training.run_length import strip_run_length


def trainer_of(model: Path) -> str:
    """Name of the trainer of a folder of results, without run length."""
    return strip_run_length(model.name.partition("__")[0])


def validation_cases(fold: Path) -> list[str]:
    """Cases that the final validation of a fold has predicted."""
    return sorted(path.name.removesuffix(".nii.gz") for path in (fold / "validation").glob("*.nii.gz"))


def training_files(model: Path) -> dict[str, Any]:
    """Images and label of each training case of the dataset of a model."""
    dataset = Path(nnUNet_raw) / maybe_convert_to_dataset_name(model.parent.name)
    return get_filenames_of_train_images_and_targets(str(dataset))


def predictor_of(model: Path, fold: int, device: torch.device, mirroring: bool = False) -> nnUNetPredictor:
    """A predictor with the weights of a fold."""
    made = nnUNetPredictor(
        use_mirroring=mirroring, perform_everything_on_device=device.type == "cuda", device=device, allow_tqdm=False
    )
    made.initialize_from_trained_model_folder(str(model), (fold,))
    made.network.load_state_dict(made.list_of_parameters[0])
    return made
