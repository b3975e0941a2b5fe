"""Blocks of commands in the pages that are marked as such run from first to last on the phantom.

The mark is a line ``<!-- runs on the phantom -->`` above the block. What a page calls ``IMAGES`` or ``SOURCE`` is a
folder of that name; trainings take one epoch of one iteration.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_ext.core.environment import FOLDER_VARIABLES
from nnunet_ext.phantom.lits import write_lits
from nnunet_ext.phantom.msd import write_msd
from tests.conftest import add_unlabelled_images, slow
from tests.test_documentation import PAGES, ROOT

_ON_DATASETS = re.compile("nnUNetv2_| -d ")
_MARKED = re.compile(r"^<!-- runs on the phantom -->\n```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block, marks=slow if _ON_DATASETS.search(block) else (), id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(_MARKED.findall(page.read_text(encoding="utf-8")))
]
SMALL = {"shape": (20, 40, 40), "spacing": (8.0, 8.0, 8.0)}
TASKS = {
    "Task04_Hippocampus": ("liver", "spleen"),
    "Task07_All": ("liver", "spleen", "pancreas"),
    "Task09_Spleen": ("spleen",),
    "Task10_Pancreas": ("pancreas",),
}
VIEWS = ("FIRST_VIEW", "SECOND_VIEW", "THIRD_VIEW")
NUMBERS = {"Task07_All": 507, "Task10_Pancreas": 501}  # where the number is not the task's


def bash(commands, folder):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    folders = {name: str(folder / name) for name in FOLDER_VARIABLES}
    weights = {"NNUNET_EXT_VGG19": "random", "NNUNET_EXT_RESNET18": "random"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder, env={**os.environ, **folders, **weights, "PATH": path}, capture_output=True, encoding="utf-8",
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where nnU-Net's folders are empty, and references and predictions lie under the names of the pages."""
    here = tmp_path_factory.mktemp("pages")
    for name in FOLDER_VARIABLES:
        (here / name).mkdir()
    truth = here / "labelsTs"
    write_msd(here / "PATH", task="Task04_Hippocampus", cases=5, test_cases=2, organs=TASKS["Task04_Hippocampus"],
              hidden_labels=truth, **SMALL)  # fmt: skip
    shutil.copytree(here / "PATH/Task04_Hippocampus/imagesTs", here / "IMAGES")
    for image in (here / "IMAGES").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    for name in ("REFERENCE_LABELS", "predictions", "results/stock", "results/refined", *VIEWS):
        shutil.copytree(truth, here / name)
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (here / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    for name in VIEWS:
        shutil.copy(here / "dataset.json", here / name)
    return here


@pytest.fixture(scope="module")
def evaluated(folder):
    bash(
        "for model in stock refined; do nnunet-ext evaluate labelsTs results/$model -djfile dataset.json; done", folder
    )


@pytest.fixture(scope="module")
def datasets(folder):
    """The datasets that the pages name, converted; 4 and 503 planned, 503 with unlabelled images."""
    for seed, (task, organs) in enumerate(TASKS.items()):
        if not (folder / "PATH" / task).exists():
            write_msd(folder / "PATH", task=task, cases=5, test_cases=1, organs=organs, seed=seed, **SMALL)
    write_lits(folder / "SOURCE", numbers=range(5), test_numbers=(0,), shape=(20, 40, 40))
    numbers = " ".join(f"'{task} -d {NUMBERS[task]}'" if task in NUMBERS else task for task in TASKS)
    bash(f"for task in {numbers}; do nnunet-ext convert msd PATH/$task; done; nnunet-ext convert lits SOURCE", folder)
    add_unlabelled_images(folder / "nnUNet_raw" / "Dataset503_LiTS", ("one", "two"))
    bash("nnUNetv2_plan_and_preprocess -d 4 503 -c 3d_fullres 2d -np 1 -npfp 1", folder)


def shortened(block):
    """With the run length of a test, without what sets nnU-Net's folders, and with a number for ID."""
    block = re.sub(r"^export nnUNet_raw=.*\n", "", block, flags=re.MULTILINE)
    block = re.sub(
        r"(nnUNetv2_(?:train|predict) .*-tr \w+)", r"\1_1epochs_1iters -device cpu", block.replace("\\\n", " ")
    )
    # nnU-Net starts eight processes, which takes minutes on two cores.
    block = re.sub(r"(nnUNetv2_\w*preprocess)\b", r"\1 -np 1", block)
    block = block.replace("plan_and_preprocess", "plan_and_preprocess -npfp 1")
    return re.sub(r"\bID\b", "4", block)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_runs(block, folder, tmp_path, request):
    if "compare" in block:
        request.getfixturevalue("evaluated")
    if _ON_DATASETS.search(block):
        request.getfixturevalue("datasets")
    here = tmp_path / "pages"
    shutil.copytree(folder, here, symlinks=True)
    for number in re.findall(r"convert msd PATH/Task(\d+)", block) + ["503"] * ("convert lits" in block):
        for made in here.glob(f"nnUNet_*/Dataset{int(number):03d}_*"):  # the block makes it
            shutil.rmtree(made)
    bash(shortened(block), here)


def test_blocks_are_shortened_as_the_commands_allow():
    block = "export nnUNet_raw=... x=...\nnnUNetv2_train ID 2d 0 -tr nnUNetTrainerMLL -p P\nnnunet-ext views -d 503\n"
    assert shortened(block) == (
        "nnUNetv2_train 4 2d 0 -tr nnUNetTrainerMLL_1epochs_1iters -device cpu -p P\nnnunet-ext views -d 503\n"
    )
    assert len(BLOCKS) >= 12
