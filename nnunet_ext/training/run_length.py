"""Run-length variants of any trainer, made on demand from the name.

``<trainer>_<N>epochs`` trains N epochs; ``<trainer>_<N>iters`` takes N training iterations an epoch and a fifth of
that, at least one, for validation; both combine, as in ``nnUNetTrainerRefinedGAN_50epochs_100iters``.
"""

from __future__ import annotations

import re

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_SUFFIX = re.compile(r"^(?P<base>.+?)(?:_(?P<epochs>[1-9]\d*)epochs?)?(?:_(?P<iterations>[1-9]\d*)iters?)?$")


def split_run_length(name: str) -> tuple[str, int | None, int | None]:
    """Split a trainer name into base, epochs and iterations an epoch; ``None`` where the name says nothing."""
    match = _SUFFIX.match(name)
    if match is None:  # an empty name
        return name, None, None
    epochs, iterations = match["epochs"], match["iterations"]
    return match["base"], int(epochs) if epochs else None, int(iterations) if iterations else None


def strip_run_length(name: str) -> str:
    """Name of the trainer that ``name`` is a run-length variant of."""
    return split_run_length(name)[0]


def run_length_variant(
    name: str, module: str, base: type[nnUNetTrainer], epochs: int | None, iterations: int | None
) -> type[nnUNetTrainer]:
    """Make the subclass of ``base`` called ``name`` with another run length.

    Args:
        name: class name, which nnU-Net writes into the checkpoint and predicts by.
        module: where pickle finds the class again by its name.
        base: the trainer.
        epochs: number of epochs, ``None`` to leave it.
        iterations: training iterations an epoch, ``None`` to leave it.
    """

    # nnU-Net records the arguments of __init__ by these very names.
    def __init__(  # noqa: N807
        self: nnUNetTrainer,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        base.__init__(self, plans, configuration, fold, dataset_json, device)
        if epochs is not None:
            self.num_epochs = epochs
        if iterations is not None:
            self.num_iterations_per_epoch = iterations
            self.num_val_iterations_per_epoch = max(1, iterations // 5)

    return type(name, (base,), {"__init__": __init__, "__module__": module, "__doc__": base.__doc__})
