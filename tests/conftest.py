"""One small preprocessed dataset for all tests, made by the stock commands from a phantom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ["nnUNet_def_n_proc"] = "1"  # pools of the final validation and evaluation

PLANS = "tinyPlans"
DATASET = "Dataset090_PhantomAbdomen"


def tiny(plans: dict) -> dict:
    """The same plans with networks that train in milliseconds."""
    plans["plans_name"] = PLANS
    for name in ("2d", "3d_fullres"):
        configuration = plans["configurations"][name]
        dimension = len(configuration["patch_size"])
        configuration["batch_size"] = 2
        configuration["patch_size"] = [16, 32, 32][-dimension:]
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments |= {
            "n_stages": 3,
            "features_per_stage": [4, 8, 8],
            "kernel_sizes": [[3] * dimension] * 3,
            "strides": [[1] * dimension, [2] * dimension, [2] * dimension],
            "n_conv_per_stage": [1, 1, 1],
            "n_conv_per_stage_decoder": [1, 1],
        }
    return plans


slow = pytest.mark.skipif(
    not os.environ.get("NNUNET_EXT_SLOW_TESTS"), reason="takes minutes: set NNUNET_EXT_SLOW_TESTS=1 to run it"
)
# What compiles in tests: for graph breaks, and as nnU-Net does.
COMPILERS = ["eager", pytest.param("inductor", marks=slow)]


@dataclass(frozen=True)
class Dataset:
    """A preprocessed dataset and the nnU-Net folders it lies in."""

    root: Path
    name: str = DATASET

    @property
    def id(self) -> str:
        return str(int(self.name[len("Dataset") :][:3]))

    @property
    def preprocessed(self) -> Path:
        return self.root / "nnUNet_preprocessed" / self.name

    @property
    def raw(self) -> Path:
        return self.root / "nnUNet_raw" / self.name

    @property
    def results(self) -> Path:
        return self.root / "nnUNet_results" / self.name

    def environment(self) -> dict[str, str]:
        folders = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        return {**os.environ, **{name: str(self.root / name) for name in folders}}

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment, stock or ours, on this dataset."""
        executable = Path(sys.executable).parent / str(command[0])
        result = subprocess.run(
            [executable, *map(str, command[1:])],
            env=self.environment(),
            capture_output=True,
            encoding="utf-8",
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check:
            assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-5000:]
        return result


@pytest.fixture(scope="session")
def _prepared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from nnunet_ext.phantom.msd import write_msd

    dataset = Dataset(tmp_path_factory.mktemp("nnunet"))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (dataset.root / name).mkdir()
    layout = write_msd(
        dataset.root, cases=5, test_cases=1, organs=("liver", "spleen"), shape=(20, 40, 40), spacing=(8.0, 8.0, 8.0)
    )
    dataset.run("nnunet-ext", "convert", "msd", layout.folder, "-np", 1)
    dataset.run("nnUNetv2_plan_and_preprocess", "-d", dataset.id, "-c", "3d_fullres", "2d", "-np", 1)
    plans = json.loads((dataset.preprocessed / "nnUNetPlans.json").read_text())
    (dataset.preprocessed / f"{PLANS}.json").write_text(json.dumps(tiny(plans)))
    return dataset


@pytest.fixture
def dataset(_prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The shared dataset with a results folder of its own; nnU-Net's variables point there."""
    return _linked(_prepared, tmp_path, monkeypatch)


def _linked(prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    (tmp_path / "nnUNet_results").mkdir()
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        (tmp_path / name).symlink_to(prepared.root / name, target_is_directory=True)
    own = Dataset(tmp_path)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return own


@pytest.fixture(scope="session")
def _prepared_unlabelled(_prepared: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    from nnunet_ext.cli.unlabelled import run_preprocess

    own = Dataset(tmp_path_factory.mktemp("unlabelled"))
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(_prepared.root / name, own.root / name)
    (own.root / "nnUNet_results").mkdir()
    add_unlabelled(own, ("one", "two", "three"))
    before = dict(os.environ)
    os.environ.update(own.environment())
    try:
        run_preprocess(own.id, ("2d", "3d_fullres"), PLANS, 1)
    finally:
        os.environ.clear()
        os.environ.update(before)
    return own


def add_unlabelled(dataset: Dataset, cases: Sequence[str]) -> Path:
    """Put images like those of training into imagesUn."""
    return add_unlabelled_images(dataset.raw, cases)


def add_unlabelled_images(raw: Path, cases: Sequence[str]) -> Path:
    """The same for the folder of a raw dataset."""
    import SimpleITK as sitk

    folder = raw / "imagesUn"
    folder.mkdir(exist_ok=True)
    first = next((raw / "imagesTs").glob("*_0000.*"))
    ending = first.name.partition("_0000")[2]
    like = sitk.ReadImage(str(first))
    array = sitk.GetArrayFromImage(like)
    for i, case in enumerate(cases):
        image = sitk.GetImageFromArray(array + (i + 1))
        image.CopyInformation(like)
        sitk.WriteImage(image, str(folder / f"{case}_0000{ending}"))
    return folder


@pytest.fixture
def unlabelled_dataset(_prepared_unlabelled: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """The shared dataset with three unlabelled images, preprocessed; a results folder of its own."""
    return _linked(_prepared_unlabelled, tmp_path, monkeypatch)


@pytest.fixture
def writable_dataset(_prepared: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    """A copy of the shared preprocessed dataset, for tests that change it."""
    own = Dataset(tmp_path)
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        shutil.copytree(_prepared.root / name, tmp_path / name)
    (tmp_path / "nnUNet_results").mkdir()
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return own
