"""Five published methods for abdominal organ segmentation as drop-in nnU-Net v2 trainers."""

__version__ = "0.1.0"
