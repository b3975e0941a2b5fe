"""Evaluation from Python: the papers' metrics of a folder of predictions, and two models side by side.

python examples/evaluate_in_python.py LABELS PREDICTIONS_A PREDICTIONS_B DATASET_JSON
"""

from __future__ import annotations

import sys
from pathlib import Path

from nnunet_ext.evaluation import Conventions, compare, evaluate_folders


def main(labels: Path, first: Path, second: Path, dataset_json: Path) -> dict[str, float]:
    """Print tables, and return the mean Dice of both."""
    conventions = Conventions(nsd_tolerances_mm=(2.0,))
    models = {
        folder.name: evaluate_folders(labels, folder, dataset_json, conventions, allow_missing=True)
        for folder in (first, second)
    }
    for name, result in models.items():
        print(name)
        print(result.table[["case", "label", "Dice", "HD95", "NSD_2mm"]].to_string(index=False))
    for difference in compare(models, ["Dice", "HD95"]):
        print(
            f"{difference.second} - {difference.first}, {difference.label or 'mean over classes'}: {difference.metric} "
            f"{difference.difference:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
        )
    return {name: result.foreground_mean()["Dice"] for name, result in models.items()}


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
