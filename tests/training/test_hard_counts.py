"""Counts of a hard prediction against a plain loop."""

import pytest
import torch

from nnunet_ext.labels import LabelLayout
from nnunet_ext.training.hard_counts import hard_counts


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)])
@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("regions", [False, True])
def test_counts_are_those_of_a_loop(shape, ignore, regions):
    generator = torch.Generator().manual_seed(len(shape))
    logits = torch.randn(2, 3, *shape, generator=generator)
    layout = LabelLayout(regions, ignore)
    if regions:
        target = torch.rand(2, 3 + (ignore is not None), *shape, generator=generator).round()
        valid = torch.ones(2, *shape).bool() if ignore is None else target[:, 3] == 0
        truth, predicted, classes = target[:, :3].bool(), logits > 0, range(3)
    else:
        target = torch.randint(0, 3 + (ignore is not None), (2, 1, *shape), generator=generator).float()
        valid = torch.ones(2, *shape).bool() if ignore is None else target[:, 0] != ignore
        classes = range(1, 3)
        truth = torch.stack([target[:, 0] == c for c in range(3)], 1)
        predicted = torch.stack([logits.argmax(1) == c for c in range(3)], 1)
    expected = [
        [int((a[:, c] & b[:, c] & valid).sum()) for c in classes]
        for a, b in ((predicted, truth), (predicted, ~truth), (~predicted, truth))
    ]
    assert hard_counts(logits, target, layout).tolist() == expected
