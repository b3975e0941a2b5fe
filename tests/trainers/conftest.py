"""Fixtures of the trainers' tests."""

import pytest

from nnunet_ext.trainers import sdnet


@pytest.fixture
def usual_sdnet_run(monkeypatch):
    """Batches are drawn in this process, so that seeds decide them; all terms are there from the beginning."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(sdnet.nnUNetTrainerSDNet, "unlabelled_start", 0.0, raising=False)
    monkeypatch.setattr(sdnet.nnUNetTrainerSDNet, "difference_start", 0.0, raising=False)
