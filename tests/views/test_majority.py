"""The vote against plain loops."""

from collections import Counter

import numpy as np
import pytest

from nnunet_ext.views.majority import majority_vote


@pytest.mark.parametrize("voters", [2, 3, 5])
@pytest.mark.parametrize("with_probabilities", [False, True])
def test_the_most_votes_win_and_ties_go_as_told(voters, with_probabilities):
    rng = np.random.default_rng(voters)
    maps = [rng.integers(0, 4, (4, 5, 6)).astype(np.uint8) for _ in range(voters)]
    probabilities = [rng.random((4, 4, 5, 6)).astype(np.float32) for _ in maps] if with_probabilities else None
    vote = majority_vote(maps, probabilities)
    assert vote.labels.dtype == np.uint8
    ties = 0
    for z, y, x in np.ndindex(4, 5, 6):
        votes = Counter(int(one[z, y, x]) for one in maps)
        first = [label for label in sorted(votes) if votes[label] == max(votes.values())]
        ties += len(first) > 1
        around = (slice(max(z - 1, 0), z + 2), slice(max(y - 1, 0), y + 2), slice(max(x - 1, 0), x + 2))

        def score(label, at=(z, y, x), around=around):
            if probabilities is not None:
                return sum(float(one[(label, *at)]) for one in probabilities)
            return sum(int((one[around] == label).sum()) for one in maps)

        assert vote.labels[z, y, x] == max(first, key=score)  # the lowest of equals
    assert vote.ties == ties > 0


def test_a_majority_is_not_asked_for_its_probability():
    maps = [np.full((2, 2, 2), label, np.uint8) for label in (1, 1, 0)]
    probabilities = [np.stack([np.ones((2, 2, 2)), np.zeros((2, 2, 2))])] * 3
    vote = majority_vote(maps, probabilities)
    assert (vote.labels == 1).all()
    assert vote.ties == 0
