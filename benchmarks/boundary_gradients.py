"""How strongly each boundary term of nnUNetTrainerMLL pulls, beside the region loss: norms of gradients.

    python benchmarks/boundary_gradients.py -d 91 -c 2d -p chaosPlans [-m MODEL/fold_0/CHECKPOINT ...] \
        --machine NAME -o FILE.csv

nnU-Net's folders must be set and the dataset preprocessed. With stock weights at the start, and with those of each
checkpoint of a trainer on the same network, the gradients of region loss (Dice + CE with deep supervision) and of
either boundary term (``boundary_scale``) are taken from the same batches of nnU-Net's loader. Columns: the norm of the
boundary term's gradient as a share of the region loss's, and the cosine between both. Rows are added to FILE.csv,
means of all of them are written beside it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from nnunet_ext.core import markdown

SCALES = ("organ", "mm")


def build(arguments: argparse.Namespace, scale: str) -> Any:
    """A trainer whose boundary term has this scale, with its loader, in training mode."""
    from nnunetv2.run.run_training import get_trainer_from_args

    from nnunet_ext.trainers.multi_level import nnUNetTrainerMLL

    nnUNetTrainerMLL.boundary_scale = scale  # as a subclass sets an option
    made = get_trainer_from_args(
        arguments.dataset, arguments.configuration, 0, nnUNetTrainerMLL.__name__, arguments.plans,
        device=torch.device("cpu"),
    )  # fmt: skip
    made.initialize()
    made.set_deep_supervision_enabled(True)
    made.network.train()
    made.dataloader_train, _ = made.get_dataloaders()
    assert made.options.boundary_scale == scale
    return made


def gradients(trainer: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the region loss and of the boundary term with respect to all weights, each as one vector in float64."""
    *target, distance = batch["target"]
    outputs = trainer.network(batch["data"])
    region = trainer.loss(outputs, target)
    boundary = trainer._boundary(outputs[0], distance)
    weights = [weight for weight in trainer.network.parameters() if weight.requires_grad]
    found = []
    for term in (region, boundary):
        each = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        zeros = (torch.zeros_like(weight) for weight in weights)
        found.append(
            torch.cat(
                [(zero if one is None else one).flatten().double() for one, zero in zip(each, zeros, strict=True)]
            )
        )
    return found[0], found[1]


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each scale, state of the weights and batch."""
    rows = []
    states: list[Path | None] = [None, *arguments.models]
    for scale in SCALES:
        np.random.seed(arguments.seed)  # noqa: NPY002 - nnU-Net's loaders draw from it
        torch.manual_seed(arguments.seed)
        trainer = build(arguments, scale)
        batches = [next(trainer.dataloader_train) for _ in range(arguments.batches)]
        for state in states:
            if state is not None:
                trainer.network.load_state_dict(
                    torch.load(state, map_location="cpu", weights_only=False)["network_weights"]
                )
            for number, batch in enumerate(batches):
                region, boundary = gradients(trainer, batch)
                rows.append(
                    {
                        "dataset": trainer.plans_manager.dataset_name,
                        "configuration": arguments.configuration,
                        "weights": "start" if state is None else f"{state.parts[-3].partition('__')[0]}, {state.stem}",
                        "scale": scale,
                        "batch": number,
                        "share": float(boundary.norm() / region.norm()),
                        "cosine": float(torch.cosine_similarity(region, boundary, dim=0)),
                    }
                )
    return rows


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", dest="dataset", required=True)
    parser.add_argument("-c", dest="configuration", required=True)
    parser.add_argument("-p", dest="plans", default="nnUNetPlans")
    parser.add_argument("-m", dest="models", type=Path, nargs="*", default=[], metavar="CHECKPOINT")
    parser.add_argument("-o", dest="output", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--machine", required=True, help="said in the result")
    arguments = parser.parse_args()
    os.environ["nnUNet_n_proc_DA"] = "0"
    table = pd.DataFrame(measure(arguments)).round(4)
    if arguments.output.is_file():
        table = pd.concat([pd.read_csv(arguments.output), table])
    table.to_csv(arguments.output, index=False)
    arguments.output.with_suffix(".md").write_text(summary(table, arguments.machine), encoding="utf-8")


def summary(table: pd.DataFrame, machine: str) -> str:
    """Means over the batches, with the least and the largest, as Markdown."""
    rows_of_table = []
    for keys, rows in table.groupby(["dataset", "configuration", "weights", "scale"], sort=False):
        dataset, configuration, weights, scale = map(str, keys)
        share, cosine = (
            f"{rows[name].mean():.2f} ({rows[name].min():.2f} to {rows[name].max():.2f})"
            for name in ("share", "cosine")
        )
        rows_of_table.append((f"{dataset}, {configuration}", weights, scale, share, cosine))
    heading = (
        f"Gradient of the boundary term beside that of the region loss, mean over {table['batch'].nunique()} batches "
        f"(least to largest). Machine: {machine}."
    )
    head = ("dataset", "weights", "scale", "norm, as a share of the region loss's", "cosine")
    return f"{heading}\n\n{markdown.table(head, rows_of_table)}"


if __name__ == "__main__":
    main()
