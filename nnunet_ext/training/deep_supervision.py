"""Which outputs of deep supervision nnU-Net's loss trains."""

from __future__ import annotations

from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

# Under DistributedDataParallel nnU-Net writes 1e-6 for no weight, so that every parameter gets a gradient.
NO_WEIGHT = 1e-5


def trained_outputs(loss: nn.Module) -> list[int]:
    """Indices of the outputs that a loss has a weight for, finest first.

    nnU-Net halves the weight from output to output and gives the last one none: of two outputs only the finest learns.

    Args:
        loss: what ``nnUNetTrainer._build_loss`` returned.

    Returns:
        ``[0]`` without deep supervision.
    """
    if not isinstance(loss, DeepSupervisionWrapper):
        return [0]
    return [i for i, weight in enumerate(loss.weight_factors) if weight > NO_WEIGHT]
