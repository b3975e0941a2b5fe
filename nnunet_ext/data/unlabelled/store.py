"""Where preprocessed unlabelled images lie, and the record of what they were made from."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.core.files import write_text
from nnunet_ext.core.records import file_state

RAW_FOLDER = "imagesUn"
_SUFFIX = "_unlabelled"
_FORMATS = ((".b2nd", "_seg.b2nd", ".pkl"), (".npz", ".pkl"))


def dataset_number(name: str) -> int:
    """Number of a dataset, from its name."""
    return int(name[len("Dataset") :][:3])


def store_folder(preprocessed_dataset: str | os.PathLike[str], data_identifier: str) -> Path:
    """Folder of the preprocessed unlabelled images, beside that of the labelled ones.

    Args:
        preprocessed_dataset: the dataset's folder in ``nnUNet_preprocessed``.
        data_identifier: of the configuration.
    """
    return Path(preprocessed_dataset) / f"{data_identifier}{_SUFFIX}"


def case_files(folder: Path, case: str) -> list[Path]:
    """Files of a case in a store, in either of nnU-Net's formats; none if they are not complete."""
    for endings in _FORMATS:
        files = [folder / f"{case}{ending}" for ending in endings]
        if all(file.exists() for file in files):
            return files
    return []


def plans_fingerprint(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> str:
    """Hash of all in the plans that decides what an image is preprocessed to.

    Args:
        plans: the whole of them.
        configuration: the one that is meant, with what it inherits.
    """
    of_plans = ("transpose_forward", "foreground_intensity_properties_per_channel", "image_reader_writer")
    of_configuration = (
        "preprocessor_name",
        "spacing",
        "normalization_schemes",
        "use_mask_for_norm",
        "resampling_fn_data",
        "resampling_fn_data_kwargs",
        "resampling_fn_seg",
        "resampling_fn_seg_kwargs",
    )
    parts = [{key: plans.get(key) for key in of_plans}, {key: configuration.get(key) for key in of_configuration}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def files_fingerprint(files: Sequence[Path]) -> list[list[int]]:
    """Size and date of each file."""
    return [list(file_state(file)) for file in files]


@dataclass
class StoreRecord:
    """What is in a store: ``<store folder>.json`` beside it, as nnU-Net takes every file inside for data.

    Attributes:
        path: the file.
        plans: :func:`plans_fingerprint` of what the cases were made with.
        cases: :func:`files_fingerprint` of the images of every finished case.
        wanted: names of all cases that the last run was to make, finished or not.
    """

    path: Path
    plans: str = ""
    cases: dict[str, list[list[int]]] = field(default_factory=dict)
    wanted: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> StoreRecord:
        """The record of a store; an empty one if there is none that can be read."""
        path = folder.with_name(f"{folder.name}.json")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            cases = dict(content["cases"])
            return cls(path, content["plans"], cases, list(content.get("wanted", cases)))
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path)

    def write(self) -> None:
        """Write the file so that it is at every moment either the old one or the whole new one."""
        content = {"plans": self.plans, "wanted": self.wanted, "cases": self.cases}
        write_text(self.path, json.dumps(content, indent=1))
