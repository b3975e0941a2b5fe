"""The trainers that stock nnU-Net finds by name."""
