"""Prediction of an external test set with the model of a cell, by nnU-Net's own command."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from nnunet_ext.benchmark.jobs.scoring import predictions_folder
from nnunet_ext.benchmark.jobs.training import device_of
from nnunet_ext.benchmark.matrix import arm_of, plans_with_options
from nnunet_ext.benchmark.workspace import Workspace
from nnunet_ext.core.files import write_text


def main(arguments: list[str]) -> int:
    """Predict the test set that is named with the cell that is; gives the exit code of nnU-Net."""
    work, key, name = arguments
    space = Workspace.open(Path(work))
    cell = space.cell(key)
    test = next(test for test in space.spec.test_sets if test.name == name)
    folder = cell.folder(space.root)
    output = predictions_folder(folder, name)
    shutil.rmtree(output, ignore_errors=True)
    command = [str(Path(sys.executable).parent / "nnUNetv2_predict"), "-i", str(test.images), "-o", str(output)]
    command += ["-d", cell.dataset, "-c", cell.configuration, "-f", str(cell.fold), "-tr", cell.trainer]
    command += ["-p", plans_with_options(arm_of(space.spec, cell), cell.plans), "-device", device_of(space).type]
    processes = str(max(1, space.spec.resources.cpus // 2))
    code = subprocess.run([*command, "-npp", processes, "-nps", processes], check=False).returncode
    if code == 0:
        write_text(folder / f"predicted_{name}.json", "{}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
