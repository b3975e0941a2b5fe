"""Loaders and targets: what a training step needs beside image and label map; everything picklable."""
