"""States of the random number generators that nnU-Net draws from: the global ones of Python, NumPy and PyTorch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_CPU = torch.device("cpu")


def random_states(device: torch.device = _CPU) -> dict[str, Any]:
    """States of all generators that a step on a device draws from, the loaders' included."""
    states: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # noqa: NPY002 - nnU-Net's loaders draw from the global generator
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_random_states(states: dict[str, Any], device: torch.device = _CPU) -> None:
    """Set the generators to what :func:`random_states` recorded."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"].cpu())
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def seed_loaders(seed: int) -> None:
    """Seed the generators that a loader draws from, those of the CPU alone.

    Args:
        seed: at least 0 and below 2**32.
    """
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.random.default_generator.manual_seed(seed)


@contextmanager
def kept_random_states() -> Iterator[None]:
    """What is drawn within changes nothing of what is drawn afterwards."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)
