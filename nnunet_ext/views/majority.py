"""Majority vote of label maps.

Source: Liu et al. 2022 (doi 10.1016/j.sigpro.2021.108418), section 4.1.2, for three views of one organ. With several
organs all three may differ, of which the paper does not speak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve


@dataclass(frozen=True)
class Vote:
    """What a vote has come to.

    Attributes:
        labels: the label map.
        ties: number of voxels where several labels had the most votes.
    """

    labels: NDArray[np.unsignedinteger]
    ties: int


def majority_vote(
    label_maps: Sequence[NDArray[np.unsignedinteger]], probabilities: Sequence[NDArray[np.floating]] | None = None
) -> Vote:
    """The label with most votes in every voxel.

    Among labels with as many votes each, the one of the highest summed probability wins; without probabilities, the
    one with more votes in the 3 x 3 x 3 voxels around; then the lowest.

    Args:
        label_maps: one of each voter, (*spatial).
        probabilities: of each voter, (labels, *spatial), the label as index.

    Returns:
        The label map, of the type of the first one.
    """
    labels = np.unique(np.concatenate([np.unique(one) for one in label_maps]))
    most = np.zeros(label_maps[0].shape, np.int32)
    winner = np.zeros_like(label_maps[0])
    tied = np.zeros(label_maps[0].shape, bool)
    for label in labels:
        votes = _votes(label_maps, label)
        tied = (votes < most) & tied | (votes == most) & (votes > 0)
        winner[votes > most] = label
        most = np.maximum(most, votes)
    if tied.any():
        best = np.full(int(tied.sum()), -np.inf)
        chosen = np.zeros(len(best), winner.dtype)
        for label in labels:
            votes = _votes(label_maps, label)
            if probabilities is not None:
                score = sum(one[label][tied].astype(np.float64) for one in probabilities)
            else:
                score = convolve(votes, np.ones([3] * votes.ndim, np.int32), mode="constant")[tied].astype(np.float64)
            better = (votes[tied] == most[tied]) & (score > best)
            chosen[better] = label
            best = np.where(better, score, best)
        winner[tied] = chosen
    return Vote(winner, int(tied.sum()))


def _votes(label_maps: Sequence[NDArray[np.unsignedinteger]], label: int) -> NDArray[np.int32]:
    return np.sum([one == label for one in label_maps], axis=0, dtype=np.int32)
