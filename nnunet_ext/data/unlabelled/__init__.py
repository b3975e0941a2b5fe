"""Unlabelled images of a dataset: found, checked and preprocessed as nnU-Net does with the labelled ones."""
