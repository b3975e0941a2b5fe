"""What is true of a dataset as a whole; quick to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dataset_conversion.plausible import ABDOMEN_MM


@dataclass(frozen=True)
class Dataset:
    """What is true of the dataset as a whole.

    Attributes:
        number: its usual dataset id.
        name: nnU-Net's dataset name without the number.
        channel_names: by channel; decides nnU-Net's normalisation.
        labels: value by name, consecutive from background 0.
        licence: terms under which the data may be used.
        reference: where the data come from.
        file_ending: ``.nii.gz`` or ``.nii``, of every file nnU-Net will read.
        field_of_view_mm: shortest and longest plausible length of an image's longest edge.
        extra: further keys for dataset.json, ignored by nnU-Net.
    """

    number: int
    name: str
    channel_names: Sequence[str]
    labels: Mapping[str, int]
    licence: str
    reference: str
    file_ending: str = ".nii.gz"
    field_of_view_mm: tuple[float, float] = ABDOMEN_MM
    extra: Mapping[str, Any] = field(default_factory=dict)
