"""The main job from end to end on a small scale, by the very commands a user would type.

Every step is skipped when what it makes is already there, so that an interrupted demo can be run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from nnunet_ext.environment import FOLDER_VARIABLES, require_nnunet
from nnunet_ext.errors import UserError

CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlansSmall"
FEATURES_PER_STAGE = [8, 16, 32, 64, 64, 64, 64]
BATCH_SIZE = 2

_console = Console(soft_wrap=True)


@dataclass(frozen=True)
class Workspace:
    """The folders of a demo.

    Attributes:
        root: everything lies in here.
        device: ``-device`` of the stock commands.
    """

    root: Path
    device: str

    def folder(self, variable: str) -> Path:
        """The folder that an nnU-Net variable points at."""
        return self.root / variable

    def dataset(self, variable: str) -> Path:
        """The dataset inside it; the demo holds exactly one."""
        (found,) = self.folder(variable).glob("Dataset*")
        return found

    @property
    def predictions(self) -> Path:
        """Where the predicted test cases go."""
        return self.root / "predictions"

    def environment(self) -> dict[str, str]:
        """The variables of the commands."""
        return {**os.environ, **self.exports()}

    def exports(self) -> dict[str, str]:
        """What the demo sets: nnU-Net's folders, and no more worker processes than there are cores.

        Each worker imports PyTorch; eight of them, nnU-Net's default, take minutes to start on two cores.
        """
        workers = str(min(8, os.cpu_count() or 1))
        return {**{name: str(self.folder(name)) for name in FOLDER_VARIABLES}, "nnUNet_def_n_proc": workers}


def run_demo(task: Path | None, output: Path, trainer: str) -> None:
    """Convert, plan, preprocess, train, predict, evaluate and draw, in ``output``.

    Args:
        task: folder of a Decathlon task; ``None`` for the synthetic abdomen.
        output: folder for everything that is made.
        trainer: name of the trainer, with its run length.

    Raises:
        UserError: a command failed, or ``output`` holds the demo of another dataset.
    """
    require_nnunet()
    root = output.resolve()
    for name in FOLDER_VARIABLES:
        (root / name).mkdir(parents=True, exist_ok=True)
    work = Workspace(root, _device())
    _console.rule("The nnU-Net folders of this demo")
    for name, value in work.exports().items():
        _console.print(f"export {name}={value}", style="bold", highlight=False)

    reference_ts = root / "synthetic" / "labelsTs"
    source = task.resolve() if task is not None else _write_phantom(root / "synthetic", reference_ts)
    _convert(work, source)
    dataset_id = work.dataset("nnUNet_raw").name[len("Dataset") :][:3].lstrip("0")
    _plan(work, dataset_id)
    model = _train(work, dataset_id, trainer)
    _predict(work, dataset_id, trainer)
    if task is None:
        evaluation = _evaluate(work, reference_ts, work.predictions, "the test cases")
    else:
        labels = work.dataset("nnUNet_preprocessed") / "gt_segmentations"
        evaluation = _evaluate(work, labels, model, "the validation cases of fold 0")
    picture = _draw(work, reference_ts if task is None else None)

    _console.rule("Done")
    for what, where in {
        "model": model,
        "curves": model / "fold_0" / "progress.png",
        "loss terms": model / "fold_0" / "loss_terms.png",
        "predictions": work.predictions,
        "metrics": evaluation,
        "prediction over image": picture,
    }.items():
        _console.print(f"{what:<22} {where}", highlight=False)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _run(title: str, work: Workspace, command: Sequence[object]) -> None:
    """Show a command and run it with this environment's executables."""
    arguments = [str(part) for part in command]
    _console.rule(title)
    _console.print("$ " + " ".join(arguments), style="bold", highlight=False, markup=False)
    executable = Path(sys.executable).parent / arguments[0]
    if subprocess.run([str(executable), *arguments[1:]], env=work.environment(), check=False).returncode:
        raise UserError(f"{arguments[0]} failed, see above; run the demo again to go on from there.")


def _skip(title: str, found: Path) -> None:
    _console.rule(title)
    _console.print(f"already there: {found}", highlight=False)


def _write_phantom(folder: Path, hidden_labels: Path) -> Path:
    from nnunet_ext.phantom.msd import write_msd

    title = "1. A synthetic abdomen in the Decathlon's layout"
    finished = folder / "written"
    task = folder / "Task90_PhantomAbdomen"
    if finished.exists():
        _skip(title, task)
        return task
    _console.rule(title)
    layout = write_msd(folder, cases=12, test_cases=3, seed=1, hidden_labels=hidden_labels)
    finished.touch()
    _console.print(f"{len(layout.train)} labelled cases and {len(layout.test)} test cases: {layout.folder}")
    return layout.folder


def _convert(work: Workspace, source: Path) -> None:
    title = "2. Convert to nnU-Net's raw format"
    report = next(work.folder("nnUNet_raw").glob("Dataset*/conversion_report.json"), None)
    if report is None:
        _run(title, work, ["nnunet-ext", "convert", "msd", source])
    elif Path(json.loads(report.read_text())["source"]) != source:
        raise UserError(f"{work.root} holds the demo of another dataset: choose another folder with -o.")
    else:
        _skip(title, report.parent)


def _plan(work: Workspace, dataset_id: str) -> None:
    """Plan and preprocess; then, from nnU-Net's plans, plans with a network that a CPU can train."""
    title = "3. Plan and preprocess"
    small = next(work.folder("nnUNet_preprocessed").glob(f"Dataset*/{PLANS}.json"), None)
    if small is not None:
        _skip(title, small)
        return
    command = ["nnUNetv2_plan_and_preprocess", "-d", dataset_id, "-c", CONFIGURATION, "-np", "2"]
    _run(title, work, [*command, "--verify_dataset_integrity"])
    folder = work.dataset("nnUNet_preprocessed")
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"][CONFIGURATION]
    configuration["batch_size"] = BATCH_SIZE
    arguments = configuration["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = FEATURES_PER_STAGE[: arguments["n_stages"]]
    small = folder / f"{PLANS}.json"
    small.write_text(json.dumps(plans, indent=4))
    _console.print(f"For speed: the same plans with fewer features and batch size {BATCH_SIZE}, -p {PLANS}: {small}")


def _train(work: Workspace, dataset_id: str, trainer: str) -> Path:
    title = "4. Train fold 0"
    model = work.folder("nnUNet_results") / work.dataset("nnUNet_raw").name / f"{trainer}__{PLANS}__{CONFIGURATION}"
    if (model / "fold_0" / "validation" / "summary.json").exists():
        _skip(title, model)
        return model
    command = ["nnUNetv2_train", dataset_id, CONFIGURATION, "0", "-tr", trainer, "-p", PLANS, "-device", work.device]
    _run(title, work, [*command, "--c"] if (model / "fold_0" / "checkpoint_final.pth").exists() else command)
    return model


def _predict(work: Workspace, dataset_id: str, trainer: str) -> None:
    images = work.dataset("nnUNet_raw") / "imagesTs"
    command = ["nnUNetv2_predict", "-i", images, "-o", work.predictions, "-d", dataset_id, "-c", CONFIGURATION]
    options = ["-f", "0", "-tr", trainer, "-p", PLANS, "-device", work.device]
    options += ["-npp", "1", "-nps", "1", "--continue_prediction"]
    _run("5. Predict the test cases", work, [*command, *options])


def _evaluate(work: Workspace, reference: Path, prediction: Path, which: str) -> Path:
    output = work.root / "evaluation"
    dataset_json = work.dataset("nnUNet_raw") / "dataset.json"
    command = ["nnunet-ext", "evaluate", reference, prediction, "-djfile", dataset_json, "-o", output]
    _run(f"6. Evaluate {which}", work, command)
    return output


def _draw(work: Workspace, reference_folder: Path | None) -> Path:
    """A picture of the first predicted case."""
    import SimpleITK as sitk

    from nnunet_ext.evaluation.picture import draw_prediction

    predicted = min(work.predictions.glob("*.nii.gz"))
    case = predicted.name.removesuffix(".nii.gz")
    raw = work.dataset("nnUNet_raw")
    image = sitk.ReadImage(str(raw / "imagesTs" / f"{case}_0000.nii.gz"))
    reference = None
    if reference_folder is not None:
        reference = sitk.GetArrayFromImage(sitk.ReadImage(str(reference_folder / predicted.name)))
    labels = json.loads((raw / "dataset.json").read_text())["labels"]
    picture = work.root / "prediction.png"
    draw_prediction(
        sitk.GetArrayFromImage(image),
        sitk.GetArrayFromImage(sitk.ReadImage(str(predicted))),
        image.GetSpacing()[::-1],
        {value: name for name, value in labels.items()},
        case,
        picture,
        reference,
    )
    return picture
