"""Checkpoint files: written atomically, checked before they are used."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import replaced_when_complete
from nnunet_ext.training.run_length import strip_run_length

# All that the trainers here add to a stock checkpoint lies under this key; stock nnU-Net ignores it.
EXTENSION_KEY = "nnunet_ext"


def write_checkpoint(checkpoint: dict[str, Any], filename: str | os.PathLike[str]) -> None:
    """Write ``checkpoint`` so that ``filename`` is at every moment either the old file or the whole new one."""
    with replaced_when_complete(Path(filename), durable=True) as temporary, temporary.open("wb") as file:
        torch.save(checkpoint, file)


def read_checkpoint(filename: str | os.PathLike[str], trainer_name: str, network: nn.Module) -> dict[str, Any]:
    """Read a checkpoint and check that it is whole and of the same trainer.

    Args:
        filename: the file.
        trainer_name: class name of the trainer that wants it; a run-length suffix makes no difference.
        network: of that trainer.

    Raises:
        UserError: the file is truncated or no nnU-Net checkpoint, or another trainer wrote it.
    """
    try:
        checkpoint = torch.load(filename, map_location="cpu", weights_only=False)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {filename}: train first, with checkpointing on.") from None
    except PermissionError:
        raise UserError(f"The checkpoint {filename} may not be read: change its permissions.") from None
    except Exception as error:  # whatever torch and pickle raise for the many ways a file can be damaged
        raise UserError(
            f"The checkpoint {filename} cannot be read, it is probably truncated: delete it and continue from an "
            "earlier one with --c."
        ) from error
    if not isinstance(checkpoint, dict) or "network_weights" not in checkpoint or "trainer_name" not in checkpoint:
        raise UserError(f"{filename} is not an nnU-Net checkpoint.")
    if strip_run_length(checkpoint["trainer_name"]) != strip_run_length(trainer_name):
        # nnU-Net's -pretrained_weights asks for all weights but those of the heads by their names.
        advice = (
            "start a new run from its weights with -pretrained_weights"
            if network.state_dict().keys() == checkpoint["network_weights"].keys()
            else f"train {trainer_name} from the start, as its network is another one"
        )
        raise UserError(
            f"The checkpoint {filename} was written by {checkpoint['trainer_name']} and cannot continue a run of "
            f"{trainer_name}: {advice}."
        )
    return checkpoint


def random_states(device: torch.device) -> dict[str, Any]:
    """States of all random number generators that a training step draws from."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - nnU-Net's loaders draw from the global generator
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to what :func:`random_states` recorded."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
