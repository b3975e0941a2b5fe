"""Prediction of an external test set with the model of a cell, by nnU-Net's own command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from nnunet_ext.benchmark.jobs.scoring import predictions_folder
from nnunet_ext.benchmark.jobs.training import device_of
from nnunet_ext.benchmark.matrix import arm_of, members_of, plans_with_options
from nnunet_ext.benchmark.records import Cell
from nnunet_ext.benchmark.spec import CASCADE, FIRST_STAGE
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.core.files import write_text


def predict(space: Workspace, cell: Cell, images: Path, output: Path, probabilities: bool = False) -> int:
    """Predict a folder of images with a trained cell; gives the exit code of nnU-Net."""
    command = [str(Path(sys.executable).parent / "nnUNetv2_predict"), "-i", str(images), "-o", str(output)]
    command += ["-d", cell.dataset, "-c", cell.configuration, "-f", str(cell.fold), "-tr", cell.trainer]
    command += ["-p", plans_with_options(arm_of(space.spec, cell), cell.plans), "-device", device_of(space).type]
    command += ["--save_probabilities"] if probabilities else []
    processes = str(max(1, space.spec.resources.cpus // 2))
    command += ["-npp", processes, "-nps", processes]
    if cell.configuration != CASCADE:
        return subprocess.run(command, check=False).returncode
    with tempfile.TemporaryDirectory(dir=cell.folder(space.root), prefix=".first_stage_") as first:
        code = predict(space, replace(cell, configuration=FIRST_STAGE), images, Path(first))
        if code:
            return code
        return subprocess.run([*command, "-prev_stage_predictions", first], check=False).returncode


def main(arguments: list[str]) -> int:
    """Predict the test set that is named with the cell that is; gives the exit code of nnU-Net."""
    work, key, name = arguments
    space = Workspace.open(Path(work))
    cell = space.cell(key)
    test = next(test for test in space.spec.test_sets if test.name == name)
    folder = cell.folder(space.root)
    output = predictions_folder(folder, name)
    shutil.rmtree(output, ignore_errors=True)
    members = members_of(space.spec, cell)
    if not members:
        code = predict(space, cell, test.images, output)
    else:
        from nnunet_ext.benchmark.jobs.ensemble import fuse

        by_mean = arm_of(space.spec, cell).fuse == "mean"
        with tempfile.TemporaryDirectory(dir=folder, prefix=".predictions_") as scratch:
            folders = [Path(scratch) / str(number) for number in range(len(members))]
            for member, own in zip(members, folders, strict=True):
                code = predict(space, member, test.images, own, by_mean)
                if code:
                    return code
            fuse(space, cell, folders, output)
    if code == 0:
        write_text(folder / f"predicted_{name}.json", "{}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
