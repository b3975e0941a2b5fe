"""Which precision losses and statistics are computed in."""

from __future__ import annotations

import torch


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Half precision lifted to float32, in which exponentials, logarithms and long sums hold; float64 stays."""
    return values if values.dtype == torch.float64 else values.float()
