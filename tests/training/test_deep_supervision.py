"""Which outputs nnU-Net trains."""

import pytest
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import nn

from nnunet_ext.training.deep_supervision import trained_outputs


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((1.0, 0.0), [0]), ((1.0, 1e-6), [0]), ((0.57, 0.29, 0.14, 0.0), [0, 1, 2]), ((0.0, 1.0), [1])],
)
def test_outputs_with_a_weight_are_trained(weights, expected):
    assert trained_outputs(DeepSupervisionWrapper(nn.MSELoss(), weights)) == expected


def test_without_deep_supervision_there_is_one():
    assert trained_outputs(nn.MSELoss()) == [0]
