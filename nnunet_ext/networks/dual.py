"""Two networks as one, and the residual counterpart of a network of nnU-Net's plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_UNET = "dynamic_network_architectures.architectures.unet"
_WEIGHTS = "weights"


class DualNetwork(nn.Module):
    """Two networks of the same inputs and outputs; the result is the weighted mean of their logits.

    Logits, not probabilities, are averaged: so does nnU-Net's predictor over folds and mirrorings, to whose mean this
    one then adds up; and no logarithm has to bring probabilities back, where half precision would lose the small ones.

    The weights are a buffer, so that a state dict says which network answers; a network of weight 0 is not run.

    Args:
        first: a network with logits (B, C, *spatial) as output, or a list of them (deep supervision).
        second: the other.
        weights: of the two, at least 0 and not both 0; only their ratio counts.

    Attributes:
        separate: give the outputs of both networks, as a pair, in place of their mean. For training.
    """

    weights: torch.Tensor

    def __init__(self, first: nn.Module, second: nn.Module, weights: Sequence[float] = (0.5, 0.5)) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.separate = False
        self.register_buffer(_WEIGHTS, torch.tensor(_checked(weights), dtype=torch.float32))
        self._shares = self._read_weights()

    @property
    def shares(self) -> tuple[float, float]:
        """The weights, with the sum 1."""
        return self._shares

    def set_weights(self, weights: Sequence[float]) -> None:
        """Choose which network answers, by weights of at least 0 and not both 0."""
        first, second = _checked(weights)
        self.weights.copy_(torch.tensor([first, second], dtype=torch.float32))
        self._shares = first / (first + second), second / (first + second)  # known here, without a wait for the device

    def _read_weights(self) -> tuple[float, float]:
        """The weights as numbers that sum to one, so that no forward pass has to wait for the device to tell them."""
        first, second = self.weights.tolist()
        return first / (first + second), second / (first + second)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._shares = self._read_weights()

    def forward(self, x: torch.Tensor) -> Any:
        """Mean logits for images (B, channels, *spatial), in the form in which the networks give them."""
        if self.separate:
            return self.first(x), self.second(x)
        if 0 in self._shares:
            return (self.first if self._shares[0] else self.second)(x)
        return mean_outputs(self.first(x), self.second(x), self._shares)


def _checked(weights: Sequence[float]) -> tuple[float, ...]:
    if len(weights) != 2 or min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"The weights of two networks must be at least 0 and not both 0, got {tuple(weights)}.")
    return tuple(weights)


def mean_outputs(first: Any, second: Any, shares: tuple[float, float]) -> Any:
    """Weighted mean of two outputs, tensors (B, C, *spatial) or lists of one per output scale.

    Args:
        first: of the one network.
        second: of the other.
        shares: their weights, with the sum 1.
    """
    if isinstance(first, (list, tuple)):
        return [mean_outputs(a, b, shares) for a, b in zip(first, second, strict=True)]
    return shares[0] * first + shares[1] * second


def residual_counterpart(class_name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Class and arguments of a residual network as strong as a given one, of the same stages, features and strides.

    - ``PlainConvUNet``: ``ResidualEncoderUNet``, two convolutions of a stage becoming one residual block. The
      convolution that its stem adds at full resolution is taken from the last stage of the decoder, where it costs as
      much; one always remains there.
    - ``ResidualEncoderUNet``: ``ResidualUNet``, which has its encoder and a decoder of residual blocks, one for each
      convolution.

    Args:
        class_name: ``network_class_name`` of the plans.
        arguments: ``arch_kwargs`` of the plans.

    Returns:
        The same two of the counterpart; ``None`` for any other class.
    """
    name = class_name.rpartition(".")[2]
    if name == "PlainConvUNet":
        rest = {key: value for key, value in arguments.items() if key not in {"n_conv_per_stage", "nonlin_first"}}
        encoder = _per_stage(arguments["n_conv_per_stage"], arguments["n_stages"])
        decoder = _per_stage(arguments["n_conv_per_stage_decoder"], arguments["n_stages"] - 1)
        rest["n_blocks_per_stage"] = [max(1, number // 2) for number in encoder]
        rest["n_conv_per_stage_decoder"] = [*decoder[:-1], max(1, decoder[-1] - 1)]
        return f"{_UNET}.ResidualEncoderUNet", rest
    if name == "ResidualEncoderUNet":
        return f"{_UNET}.ResidualUNet", dict(arguments)
    return None


def _per_stage(number: int | Sequence[int], stages: int) -> list[int]:
    """A number of convolutions for every stage, which plans may give as one for all."""
    return [number] * stages if isinstance(number, int) else list(number)
