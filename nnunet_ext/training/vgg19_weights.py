"""Where the ImageNet weights of VGG-19 are."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from nnunet_ext.core.errors import UserError

VARIABLE = "NNUNET_EXT_VGG19"
RANDOM = "random"
_TORCHVISION = "vgg19-dcbb9e9d.pth"
_TIMM = ("timm/vgg19.tv_in1k", "model.safetensors")


def find_vgg19() -> Path | None:
    """The file of the weights: that of ``NNUNET_EXT_VGG19``, or of the caches of torchvision and of timm.

    Returns:
        The file; ``None`` where the variable asks for random weights.

    Raises:
        UserError: there is none.
    """
    asked = os.environ.get(VARIABLE)
    if asked == RANDOM:
        return None
    if asked:
        file = Path(asked).expanduser()
        if not file.is_file():
            raise UserError(f"{VARIABLE} is {asked}, which is not a file: give one with the weights of VGG-19.")
        return file
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _TORCHVISION
    if cached.is_file():
        return cached
    found = try_to_load_from_cache(*_TIMM)
    if isinstance(found, str):
        return Path(found)
    raise UserError(
        f"There are no ImageNet weights of VGG-19: where there is a network, "
        f"python -c \"import torchvision; torchvision.models.vgg19(weights='IMAGENET1K_V1')\" puts them into {cached}; "
        f"or set {VARIABLE} to such a file, or to {RANDOM} to start from random weights."
    )


def read_vgg19(file: Path) -> dict[str, torch.Tensor]:
    """Weights by name of a file of torch or safetensors.

    Raises:
        UserError: it is no such file.
    """
    try:
        if file.suffix == ".safetensors":
            weights = load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{file} is no file of weights ({reason}): give one with those of VGG-19.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise UserError(f"{file} holds no weights by name: give a file with those of VGG-19.")
    return weights
