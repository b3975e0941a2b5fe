"""The region loss that the terms of a paper are added to."""

import pytest
import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn
from torch.nn.functional import cross_entropy

from nnunet_ext.labels import CLASSES
from nnunet_ext.training.region_loss import choose_region_loss


class Stock(nn.Module):
    """As much of nnU-Net's loss as the choice changes."""

    weight_ce = 1.0

    def forward(self, logits, target):
        return 10 + self.weight_ce * cross_entropy(logits, target[:, 0].long())


@pytest.mark.parametrize("choice", ["stock", "dice", "cross_entropy"])
@pytest.mark.parametrize("deep_supervision", [False, True])
def test_it_is_nnunet_s_loss_or_one_of_its_terms(choice, deep_supervision):
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 1, 4, 4))
    entropy = cross_entropy(logits, target[:, 0]).item()
    expected = {"stock": 10 + entropy, "dice": 10, "cross_entropy": entropy}[choice]
    if not deep_supervision:
        loss = choose_region_loss(Stock(), choice, CLASSES)
        assert loss(logits, target).item() == pytest.approx(expected, rel=1e-5)
        return
    loss = choose_region_loss(DeepSupervisionWrapper(Stock(), (1.0, 0.5)), choice, CLASSES)
    assert loss([logits] * 2, [target] * 2).item() == pytest.approx(1.5 * expected, rel=1e-5)
