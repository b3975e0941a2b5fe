"""Run lengths in the name of a trainer."""

import pytest

from nnunet_ext.training.run_length import split_run_length, strip_run_length


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nnUNetTrainer_2epochs_10iters", ("nnUNetTrainer", 2, 10)),
        ("nnUNetTrainerRefinedGAN_50epochs", ("nnUNetTrainerRefinedGAN", 50, None)),
        ("nnUNetTrainerX_1epoch_1iter", ("nnUNetTrainerX", 1, 1)),
        ("nnUNetTrainerX_7iters", ("nnUNetTrainerX", None, 7)),
        ("nnUNetTrainerDA5", ("nnUNetTrainerDA5", None, None)),
        ("nnUNetTrainer_0epochs", ("nnUNetTrainer_0epochs", None, None)),
    ],
)
def test_run_length_suffixes(name, expected):
    assert split_run_length(name) == expected
    assert strip_run_length(name) == expected[0]
