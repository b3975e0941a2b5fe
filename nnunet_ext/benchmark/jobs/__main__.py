"""One job of a benchmark: ``python -m nnunet_ext.benchmark.jobs STEP KEY [--work FOLDER]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nnunet_ext.core.errors import UserError

STEPS = ("prepare", "train", "predict", "evaluate")


def main() -> int:
    """Do the job; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nnunet_ext.benchmark.jobs", description=__doc__)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("key", help="a dataset for prepare, else a cell: its folder below cells")
    parser.add_argument("--test-set", default="", help="what is predicted")
    parser.add_argument("--retries", action="store_true", help="do not repeat what has failed for good in this run")
    parser.add_argument("--work", type=Path, default=Path(), help="work folder of the benchmark")
    chosen = parser.parse_args()
    try:
        return run(chosen.work, chosen.step, chosen.key, chosen.test_set, chosen.retries)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def run(work: Path, step: str, key: str, test_set: str = "", retries: bool = False) -> int:
    """Do a job in a work folder; gives the exit code.

    Raises:
        UserError: there is no such dataset or cell, or it cannot be worked on.
    """
    from nnunet_ext.benchmark.workspace import Workspace

    space = Workspace.open(work)
    if step == "prepare":
        from nnunet_ext.benchmark.jobs.prepare import prepare

        found = next((dataset for dataset in space.spec.datasets if key in (dataset.key, dataset.name)), None)
        if found is None:
            raise UserError(f"{space.spec.name} has no dataset {key}.")
        return prepare(space, found)
    from nnunet_ext.benchmark.jobs.cell import run_step

    return run_step(space, key, step, test_set, retries)


if __name__ == "__main__":
    sys.exit(main())
