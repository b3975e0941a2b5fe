import pytest
import torch
from torch import nn

from nnunet_ext.training.teacher import Teacher


class Network(nn.Module):
    """Two outputs, finest first, as with deep supervision."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, data):
        finest = self.dropout(self.layer(data))
        return [finest, finest[..., ::2, ::2]]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_is_the_network_of_the_last_refresh_without_gradients_and_dropout(compiled):
    plain = Network()
    network = torch.compile(plain, backend="eager") if compiled else plain
    copied = Teacher(network)
    data = torch.randn(2, 1, 4, 4)
    before = plain.layer(data)
    assert torch.equal(copied(data), before)
    assert not copied(data).requires_grad
    with torch.no_grad():
        plain.layer.weight.add_(1)
    assert torch.equal(copied(data), before)
    copied.refresh(network)
    assert torch.equal(copied(data), plain.layer(data))
    assert copied.state_dict().keys() == plain.state_dict().keys()  # no prefix of a wrapper
    assert plain.training
    assert all(parameter.requires_grad for parameter in plain.parameters())
