"""The boundary loss in a training loop of your own: some steps of a small network on a disc.

python examples/loss_outside_nnunet.py
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses import boundary_loss_of_logits


def disc(size: int = 48) -> np.ndarray:
    """A label map (y, x): 1 in a disc, 0 around it."""
    y, x = np.mgrid[:size, :size] - size / 2
    return (y**2 + x**2 < (size / 4) ** 2).astype(np.uint8)


def main(steps: int = 60) -> float:
    """Train, and return the Dice of the result."""
    torch.manual_seed(0)
    truth = disc()
    image = torch.from_numpy(truth)[None, None] + 0.3 * torch.randn(1, 1, *truth.shape)
    target = torch.from_numpy(truth).long()[None]
    distance = signed_distance_maps(truth[None], spacing=(1.0, 1.0), labels=[1], relative=True)[None]
    network = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 2, 5, padding=2))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(steps):
        logits = network(image)
        loss = nn.functional.cross_entropy(logits, target) + boundary_loss_of_logits(logits, distance, relative=True)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = network(image).argmax(1)
    return (2 * (found & target).sum() / (found.sum() + target.sum())).item()


if __name__ == "__main__":
    print(f"Dice {main():.3f}")
