"""Slices with contours."""

import numpy as np

from nnunet_ext.evaluation.overlays import _worst_slice


def test_the_slice_with_most_errors_is_shown():
    ref, pred = np.zeros((5, 4, 4), bool), np.zeros((5, 4, 4), bool)
    ref[:, 1:3, 1:3] = pred[:, 1:3, 1:3] = True
    pred[3] = False
    assert _worst_slice(ref, pred) == 3
