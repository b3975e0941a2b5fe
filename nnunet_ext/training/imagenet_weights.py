"""Where the ImageNet weights of a network are."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file

from nnunet_ext.core.errors import UserError

RANDOM = "random"


class Backbone(Protocol):
    """A network that takes the weights of an ImageNet classifier."""

    def load_imagenet(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Take the weights, by their names in torchvision.

        Raises:
            ValueError: they do not fit.
        """


@dataclass(frozen=True)
class ImageNetWeights:
    """The weights of a classifier, which the user gives or torchvision or timm have kept.

    Attributes:
        name: of the network.
        variable: environment variable that names a file, or asks for random weights.
        function: torchvision's function that makes the network.
        torchvision: name of the file in torchvision's cache.
        timm: name of the network in timm's cache.
    """

    name: str
    variable: str
    function: str
    torchvision: str
    timm: str

    def find(self) -> Path | None:
        """The file of the weights: the one that the variable names, or that of a cache.

        Returns:
            The file; ``None`` where the variable asks for random weights.

        Raises:
            UserError: there is none.
        """
        if os.environ.get(self.variable) == RANDOM:
            return None
        found = self.look_for()
        if found is not None:
            return found
        raise UserError(
            f"There are no ImageNet weights of {self.name}: {self.advice()}, or to {RANDOM} to start from random "
            "weights."
        )

    def look_for(self) -> Path | None:
        """The file of the weights; ``None`` where there is none, or the variable asks for random weights.

        Raises:
            UserError: the variable names what is not a file.
        """
        asked = os.environ.get(self.variable)
        if asked == RANDOM:
            return None
        if asked:
            file = Path(asked).expanduser()
            if not file.is_file():
                raise UserError(
                    f"{self.variable} is {asked}, which is not a file: give one with the weights of {self.name}."
                )
            return file
        if self._torchvision_file().is_file():
            return self._torchvision_file()
        found = try_to_load_from_cache(f"timm/{self.timm}", "model.safetensors")
        return Path(found) if isinstance(found, str) else None

    def advice(self) -> str:
        """How to get them."""
        return (
            f'where there is a network, python -c "import torchvision; torchvision.models.{self.function}'
            f"(weights='IMAGENET1K_V1')\" puts them into {self._torchvision_file()}; or set {self.variable} to such a "
            "file"
        )

    def read(self, file: Path) -> dict[str, torch.Tensor]:
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
            raise UserError(f"{file} is no file of weights ({reason}): give one with those of {self.name}.") from error
        if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
            raise UserError(f"{file} holds no weights by name: give a file with those of {self.name}.")
        return weights

    def load(self, file: Path, backbones: Iterable[Backbone]) -> None:
        """Give the weights of a file to networks.

        Raises:
            UserError: the file holds other weights, or none.
        """
        weights = self.read(file)
        try:
            for backbone in backbones:
                backbone.load_imagenet(weights)
        except ValueError as error:
            raise UserError(f"{file} does not hold the weights of {self.name}: {error}.") from error

    def _torchvision_file(self) -> Path:
        return Path(torch.hub.get_dir()) / "checkpoints" / self.torchvision


VGG19 = ImageNetWeights("VGG-19", "NNUNET_EXT_VGG19", "vgg19", "vgg19-dcbb9e9d.pth", "vgg19.tv_in1k")
RESNET18 = ImageNetWeights("ResNet-18", "NNUNET_EXT_RESNET18", "resnet18", "resnet18-f37072fd.pth", "resnet18.tv_in1k")
