"""Segmentation metrics, tables, statistics and reports; needs numpy, scipy and pandas, no torch.

Example:
    >>> import numpy as np
    >>> from nnunet_ext.evaluation import evaluate_pair, label_scheme
    >>> reference = np.zeros((4, 8, 8), np.uint8)
    >>> reference[1:3, 2:6, 2:6] = 1
    >>> prediction = np.roll(reference, 1, axis=2)
    >>> scheme = label_scheme({"labels": {"background": 0, "liver": 1}})
    >>> liver = evaluate_pair(reference, prediction, spacing=(3.0, 0.8, 0.8), scheme=scheme)["liver"]
    >>> liver.metrics["Dice"], round(liver.metrics["HD95"], 2)  # a fraction, and mm
    (0.75, 0.8)
"""

import lazy_loader

# The names stand in __init__.pyi. Each is imported when it is used: worker processes need few of them.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
