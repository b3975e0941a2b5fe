"""Hard predictions."""

from __future__ import annotations

import torch


def hard_labels(logits: torch.Tensor) -> torch.Tensor:
    """Class of the highest logit, (B, 1, *spatial) from (B, C, *spatial); of equal ones any."""
    return logits.max(1, keepdim=True).indices  # not argmax, which is slow over the channels on a CPU
