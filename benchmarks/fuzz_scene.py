"""What mutations of the fuzzing by meaning have in common: the copied dataset they work on, and where they register."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

RIGHT, NAMED, REFUSED = "right", "named", "refused"
UNION = "union"


@dataclass
class Scene:
    """What a mutation works on: the copied dataset, and random numbers. ``note`` says what was chosen."""

    folder: Path
    rng: np.random.Generator
    note: str = ""

    def choose(self, options: Any) -> Any:
        """One of the options, named by its place where it has no short name."""
        options = list(options)
        index = int(self.rng.integers(len(options)))
        text = str(options[index]) if isinstance(options[index], str | int | float | tuple) else str(index)
        self.note += f" {text}"
        return options[index]

    def files(self, *endings: str, without: str = "\0", within: str = "") -> list[Path]:
        """Files below the folder by the ends of their names."""
        return sorted(
            p
            for p in self.folder.rglob("*")
            if p.is_file()
            and p.name.endswith(endings)
            and not p.name.startswith(".")
            and without not in str(p.relative_to(self.folder)).lower()
            and within in str(p.relative_to(self.folder)).lower()
        )

    def images(self) -> list[Path]:
        """NIfTI images."""
        return [
            p
            for p in self.files(".nii", ".nii.gz")
            if not is_label(p) and not (self.folder / "Dataset507_BTCV" in p.parents and p.parent.name == "imagesTs")
        ]

    def labels(self) -> list[Path]:
        """NIfTI label maps."""
        return [
            p for p in self.files(".nii", ".nii.gz") if is_label(p) and "0025" not in p.name and "0070" not in p.name
        ]

    def series(self) -> list[Path]:
        """The DICOM files of one folder."""
        folders = sorted({p.parent for p in self.files(".dcm")})
        return sorted(self.choose_silently(folders).glob("*.dcm"))

    def choose_silently(self, options: list[Path]) -> Path:
        """One of the options."""
        return options[int(self.rng.integers(len(options)))]


def is_label(path: Path) -> bool:
    """Whether a NIfTI file is a label map, by its place or name."""
    return path.parent.name.lower().startswith(("label", "seg", "tcia")) or path.name.startswith("segmentation")


Mutate = Callable[[Scene], set[str]]
#: Mutations by what a dataset must have for them: nifti, nifti label, dicom, png, mhd, json, anything.
MUTATIONS: dict[str, list[tuple[str, Mutate]]] = {}


def mutation(needs: str) -> Callable[[Mutate], Mutate]:
    """Register a mutation, which gives the outcomes it allows."""

    def register(function: Mutate) -> Mutate:
        MUTATIONS.setdefault(needs, []).append((function.__name__, function))
        return function

    return register
