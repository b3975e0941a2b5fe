"""Dice and RDSC after each round of the iteration from coarse to fine (Liu et al. 2022, Eq. 14, Tables 4 and 5).

    python benchmarks/iteration_rounds.py MODEL [MODEL ...] --name chaos_t2_rounds --machine "two-core x86-64 CPU"

MODEL is a folder of results of ``nnUNetTrainerMLN`` or ``nnUNetTrainerCoarseToFine``. The validation cases of every
fold in it are predicted with 0 rounds (the coarse network alone), 1, 2, ...; the iteration never ends early. Every case
goes to ``results/NAME.csv``, means to ``results/NAME.md``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from trained_models import predictor_of, trainer_of, training_files, validation_cases

from nnunet_ext.core.markdown import table as table_of
from nnunet_ext.evaluation.metrics import relative_dice

RESULTS = Path(__file__).parent / "results"
NEVER = 2.0  # an RDSC that is not reached


def dice(labels: npt.NDArray[Any], others: npt.NDArray[Any], classes: int) -> float:
    """Mean Dice over the classes that either label map has."""
    found = [(labels == i, others == i) for i in range(1, classes)]
    return float(np.mean([relative_dice(a, b) for a, b in found if a.any() or b.any()]))


def measure(model: Path, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for each case and number of rounds."""
    files = training_files(model)
    for fold in sorted(model.glob("fold_*")):
        predictor = predictor_of(model, int(fold.name[5:]), torch.device("cpu"))
        reader = predictor.plans_manager.image_reader_writer_class()
        network: Any = predictor.network
        network.tolerance = NEVER
        for case in validation_cases(fold):
            image, about = reader.read_images(files[case]["images"])
            truth = reader.read_seg(files[case]["label"])[0][0]
            before: npt.NDArray[Any] | None = None
            for number in range(rounds + 1):
                network.max_rounds = number
                found = predictor.predict_single_npy_array(image, about, None, None, False)
                classes = len(predictor.dataset_json["labels"])
                yield {
                    "arm": trainer_of(model),
                    "fold": int(fold.name[5:]),
                    "case": case,
                    "rounds": number,
                    "Dice": dice(found, truth, classes),
                    "RDSC": float("nan") if before is None else dice(found, before, classes),
                }
                before = found
            print(f"{model.name} {fold.name} {case}", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--name", required=True, help="of the files in benchmarks/results")
    parser.add_argument("--machine", required=True, help="said in the result")
    arguments = parser.parse_args()
    table = pd.DataFrame([row for model in arguments.models for row in measure(model, arguments.rounds)])
    table.round(5).to_csv(RESULTS / f"{arguments.name}.csv", index=False)
    means = table.groupby(["arm", "rounds"], sort=False)[["Dice", "RDSC"]].mean().reset_index()
    rows = [[r.arm, r.rounds, *(f"{v:.4f}".replace("nan", "-") for v in (r.Dice, r.RDSC))] for r in means.itertuples()]
    heading = (
        f"Dice after each round of the iteration, and Dice with the prediction of the round before (RDSC): mean over "
        f"{table.groupby(['fold', 'case']).ngroups} validation cases, no rounds: the coarse network alone. "
        f"Machine: {arguments.machine}."
    )
    text = f"{heading}\n\n{table_of(('trainer', 'rounds', 'Dice', 'RDSC'), rows)}"
    (RESULTS / f"{arguments.name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
