"""The main job from end to end on a small scale, by the very commands a user would type.

Every step is skipped when what it makes is already there, so that an interrupted demo can be run again.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nnunet_ext.core.environment import FOLDER_VARIABLES, require_nnunet
from nnunet_ext.core.errors import UserError

CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlansSmall"
_AUGMENTATION_WORKERS = "nnUNet_n_proc_DA"
FEATURES_PER_STAGE = [8, 16, 32, 64, 64, 64, 64]
BATCH_SIZE = 2
PHANTOM_TASK = "Task90_PhantomAbdomen"
PHANTOM_SHAPE = (16, 40, 40)  # coarse, so that a CPU learns it in minutes

_console = Console(soft_wrap=True)


@dataclass(frozen=True)
class Workspace:
    """The folders of a demo.

    Attributes:
        root: everything lies in here.
        name: ``Dataset<number>_<name>``.
        trainer: name of the trainer, with its run length.
        device: ``-device`` of the stock commands.
    """

    root: Path
    name: str
    trainer: str
    device: str

    @property
    def id(self) -> str:
        """Dataset id, as the commands take it."""
        return str(int(self.name[len("Dataset") :][:3]))

    @property
    def raw(self) -> Path:
        """The dataset in nnU-Net raw format."""
        return self.root / "nnUNet_raw" / self.name

    @property
    def preview(self) -> Path:
        """The page that shows the dataset."""
        return self.root / "preview.html"

    @property
    def preprocessed(self) -> Path:
        """The preprocessed dataset."""
        return self.root / "nnUNet_preprocessed" / self.name

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.root / "nnUNet_results" / self.name / f"{self.trainer}__{PLANS}__{CONFIGURATION}"

    @property
    def predictions(self) -> Path:
        """The predicted test cases."""
        return self.root / "predictions" / self.trainer

    @property
    def evaluation(self) -> Path:
        """The metrics."""
        return self.root / "evaluation" / self.trainer

    @property
    def picture(self) -> Path:
        """A prediction over its image."""
        return self.root / f"{self.trainer}.png"

    def exports(self) -> dict[str, str]:
        """What the demo sets: nnU-Net's folders, and no more worker processes than there are cores.

        Each worker imports PyTorch; eight of them, nnU-Net's default, take minutes to start on two cores.
        """
        folders = {name: str(self.root / name) for name in FOLDER_VARIABLES}
        return {**folders, "nnUNet_def_n_proc": str(min(8, os.cpu_count() or 1))}


def run_demo(task: Path | None, output: Path, trainer: str) -> None:
    """Convert, look, plan, preprocess, train, predict, evaluate and draw, in ``output``.

    Args:
        task: folder of a Decathlon task; ``None`` for the synthetic abdomen.
        output: folder for everything that is made.
        trainer: name of the trainer, with its run length.

    Raises:
        UserError: ``task`` is not a Decathlon task, or a command failed.
    """
    require_nnunet()
    root = output.resolve()
    source = root / "synthetic" / PHANTOM_TASK if task is None else _task_folder(task.resolve())
    number, name = source.name.removeprefix("Task").split("_", 1)
    work = Workspace(root, f"Dataset{int(number):03d}_{name}", trainer, _device())
    for variable in FOLDER_VARIABLES:
        (root / variable).mkdir(parents=True, exist_ok=True)
    _console.rule("The nnU-Net folders of this demo")
    for variable, value in work.exports().items():
        _console.print(f"export {variable}={value}", style="bold", highlight=False)

    hidden_labels = root / "synthetic" / "labelsTs" if task is None else None
    if hidden_labels is not None:
        _write_phantom(source, hidden_labels)
    _convert(work, source)
    _look(work)
    _plan(work)
    _train(work)
    _predict(work)
    _evaluate(work, hidden_labels)
    pictured = _draw(work, hidden_labels)

    _console.rule("Done")
    results = {
        "data": work.preview,
        "model": work.model,
        "curves": work.model / "fold_0" / "progress.png",
        "loss terms": work.model / "fold_0" / "loss_terms.png",
        "predictions": work.predictions,
        "metrics": work.evaluation / "report.html",
        "prediction over image": work.picture if pictured else Path("-"),
    }
    for what, where in results.items():
        if where.exists():  # a stock trainer writes no loss terms
            _console.print(f"{what:<22} {where}", highlight=False)


def _task_folder(folder: Path) -> Path:
    from dataset_conversion.msd import find_task

    task = find_task(folder)
    if not re.fullmatch(r"Task\d+_\w+", task.name):
        raise UserError(f"{task} is not named Task<number>_<name>, as Decathlon tasks are: rename it.")
    return task


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _run(title: str, work: Workspace, command: Sequence[object], planning: bool = False) -> None:
    """Show a command and run it with this environment's executables.

    ``planning``: without a ``nnUNet_n_proc_DA`` of 0, which is for training only: planning takes it for a number of
    threads, and PyTorch knows no 0 threads.
    """
    arguments = [str(part) for part in command]
    _console.rule(title)
    _console.print("$ " + shlex.join(arguments), style="bold", highlight=False, markup=False)
    beside = Path(sys.executable).parent / arguments[0]
    executable = str(beside) if beside.exists() else shutil.which(arguments[0])
    if executable is None:
        raise UserError(f"The command {arguments[0]} was not found: is nnunet_ext installed in this environment?")
    environment = {**os.environ, **work.exports()}
    if planning and environment.get(_AUGMENTATION_WORKERS) == "0":
        del environment[_AUGMENTATION_WORKERS]
    if subprocess.run([executable, *arguments[1:]], env=environment, check=False).returncode:
        raise UserError(f"{arguments[0]} failed, see above; run the demo again to go on from there.")


def _skip(title: str, found: Path) -> None:
    _console.rule(title)
    _console.print(f"already there: {found}", highlight=False)


def _write_phantom(task: Path, hidden_labels: Path) -> None:
    from nnunet_ext.phantom.msd import write_msd

    title = "1. A synthetic abdomen in the Decathlon's layout"
    finished = task.parent / "written"
    if finished.exists():
        _skip(title, task)
        return
    _console.rule(title)
    layout = write_msd(
        task.parent, task=task.name, cases=12, test_cases=3, shape=PHANTOM_SHAPE, seed=1, hidden_labels=hidden_labels
    )
    finished.touch()
    _console.print(f"{len(layout.train)} labelled cases and {len(layout.test)} test cases: {layout.folder}")


def _convert(work: Workspace, source: Path) -> None:
    title = "2. Convert to nnU-Net's raw format"
    if (work.raw / "dataset.json").exists():
        _skip(title, work.raw)
    else:
        _run(title, work, ["nnunet-ext", "convert", "msd", source])


def _look(work: Workspace) -> None:
    _run("3. Look at the data", work, ["nnunet-ext", "preview", "-d", work.id, "-o", work.preview])


def _plan(work: Workspace) -> None:
    """Plan and preprocess; then, from nnU-Net's plans, plans with a network that a CPU can train."""
    title = "4. Plan and preprocess"
    small = work.preprocessed / f"{PLANS}.json"
    if small.exists():
        _skip(title, small)
        return
    command = ["nnUNetv2_plan_and_preprocess", "-d", work.id, "-c", CONFIGURATION, "-np", "2"]
    _run(title, work, [*command, "--verify_dataset_integrity"], planning=True)
    plans = json.loads((work.preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = BATCH_SIZE
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = FEATURES_PER_STAGE[: arguments["n_stages"]]
    small.write_text(json.dumps(plans, indent=4))
    _console.print(f"For speed: the same plans with fewer features and batch size {BATCH_SIZE}, -p {PLANS}: {small}")


def _train(work: Workspace) -> None:
    title = "5. Train fold 0"
    fold = work.model / "fold_0"
    if (fold / "validation" / "summary.json").exists():
        _skip(title, work.model)
        return
    command = ["nnUNetv2_train", work.id, CONFIGURATION, "0", "-tr", work.trainer, "-p", PLANS, "-device", work.device]
    _run(title, work, [*command, *(["--c"] if list(fold.glob("checkpoint_*.pth")) else [])])


def _predict(work: Workspace) -> None:
    command = ["nnUNetv2_predict", "-i", work.raw / "imagesTs", "-o", work.predictions, "-d", work.id]
    options = ["-c", CONFIGURATION, "-f", "0", "-tr", work.trainer, "-p", PLANS, "-device", work.device]
    _run("6. Predict the test cases", work, [*command, *options, "-npp", "1", "-nps", "1"])


def _evaluate(work: Workspace, hidden_labels: Path | None) -> None:
    """Evaluate the test cases where their labels are known, else the validation cases of fold 0."""
    which, reference, predicted = "validation", work.preprocessed / "gt_segmentations", work.model
    if hidden_labels is not None:
        which, reference, predicted = "test", hidden_labels, work.predictions
    command = ["nnunet-ext", "evaluate", reference, predicted, "-djfile", work.raw / "dataset.json"]
    _run(f"7. Evaluate the {which} cases", work, [*command, "-o", work.evaluation])


def _draw(work: Workspace, hidden_labels: Path | None) -> bool:
    """Draw the first predicted test case; returns whether there is one."""
    import SimpleITK as sitk

    from nnunet_ext.evaluation.picture import draw_prediction

    description = json.loads((work.raw / "dataset.json").read_text())
    ending = description["file_ending"]
    predicted = min(work.predictions.glob(f"*{ending}"), default=None)
    if predicted is None:
        return False
    case = predicted.name.removesuffix(ending)
    image = sitk.ReadImage(str(work.raw / "imagesTs" / f"{case}_0000{ending}"))
    reference = None
    if hidden_labels is not None:
        reference = sitk.GetArrayFromImage(sitk.ReadImage(str(hidden_labels / predicted.name)))
    draw_prediction(
        sitk.GetArrayFromImage(image),
        sitk.GetArrayFromImage(sitk.ReadImage(str(predicted))),
        image.GetSpacing()[::-1],
        {value: name for name, value in description["labels"].items()},
        case,
        work.picture,
        reference,
    )
    return True
