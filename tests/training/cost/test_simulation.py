"""What takes the place of CUDA and of data in a simulated step."""

import os

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as stock
from torch.nn import functional

from nnunet_ext.training.cost.simulation import cuda_autocast, simulated, without_data


def test_it_casts_as_autocast_does_on_cuda():
    x = torch.randn(4, 3, requires_grad=True)
    target = torch.tensor([0, 1, 2, 0])
    with cuda_autocast():
        y = functional.linear(x, torch.eye(3))
        assert y.dtype == torch.float16
        for function in (functional.softmax, functional.log_softmax, torch.cumsum, torch.sum):
            assert function(y, 1).dtype == torch.float32
        for loss in (functional.cross_entropy, functional.nll_loss):
            assert loss(y, target).dtype == torch.float32
        assert functional.mse_loss(y, x).dtype == torch.float32
    assert functional.linear(x, torch.eye(3)).dtype == torch.float32


def test_nothing_is_said_written_or_left_behind(capsys, monkeypatch):
    monkeypatch.delenv("NNUNET_EXT_VGG19", raising=False)
    monkeypatch.setenv("nnUNet_compile", "t")
    before, found = dict(os.environ), stock.infer_dataset_class
    with pytest.raises(KeyError), without_data(stock.nnUNetTrainer):
        print("a line")
        assert os.environ["nnUNet_compile"] == "f" and os.environ["NNUNET_EXT_VGG19"] == "random"
        assert stock.infer_dataset_class is not found
        raise KeyError
    assert dict(os.environ) == before and stock.infer_dataset_class is found
    assert capsys.readouterr().out == ""


def test_numbers_that_the_host_asks_for_are_one_and_of_their_type():
    with simulated(stock.nnUNetTrainer):
        asked = [torch.zeros(1, dtype=kind).item() for kind in (torch.int64, torch.float16)]
    assert asked == [1, 1] and [type(one) for one in asked] == [int, float]
