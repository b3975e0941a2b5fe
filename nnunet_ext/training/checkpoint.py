"""Checkpoint files: written atomically, checked before they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

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
