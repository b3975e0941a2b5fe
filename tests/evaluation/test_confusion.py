import numpy as np
import pytest

from nnunet_ext.evaluation import confusion
from nnunet_ext.evaluation.confusion import ConfusionCounts, joint_histogram


def by_hand(ref, pred, members, ignore=None):
    use = np.ones(ref.shape, bool) if ignore is None else ref != ignore
    r, p = np.isin(ref, members), np.isin(pred, members)
    return ConfusionCounts(*(int((x & use).sum()) for x in (r & p, ~r & p, r & ~p, ~r & ~p)))


@pytest.mark.parametrize("labels", [(0, 1), (0, 1, 2, 3), (0, 3, 7, 200), tuple(range(0, 300))])
@pytest.mark.parametrize("ignore", [None, "last"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_equal_boolean_algebra(labels, ignore, dtype, monkeypatch):
    labels = [label for label in labels if label <= np.iinfo(dtype).max]
    monkeypatch.setattr(confusion, "_CHUNK", 37)  # several chunks, the last one short
    rng = np.random.default_rng(1)
    ref, pred = (rng.choice(labels, size=(6, 7, 8)).astype(dtype) for _ in range(2))
    ignored = labels[-1] if ignore and len(labels) > 2 else None
    histogram = joint_histogram(ref, pred, labels)
    assert histogram.counts.sum() == ref.size
    for members in ((labels[1],), labels[1:-1] or (labels[1],)):
        assert histogram.confusion(members, ignored) == by_hand(ref, pred, members, ignored)


def test_counts_do_not_overflow_small_integers():
    ref = np.full((40, 40), 200, np.uint8)
    counts = joint_histogram(ref, ref, range(201)).confusion([200])
    assert counts == ConfusionCounts(1600, 0, 0, 0)


@pytest.mark.parametrize("labels", [(0, 1, 2), (0, 1, 9)])
def test_an_unknown_value_is_not_counted_as_something_else(labels):
    ref, pred = np.zeros((3, 3), np.uint8), np.zeros((3, 3), np.uint8)
    pred[0, 0] = 5
    with pytest.raises(ValueError, match="not among the labels"):
        joint_histogram(ref, pred, labels)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        joint_histogram(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), [0, 1])
