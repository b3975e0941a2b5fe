"""Pure PyTorch networks with plain keyword arguments; knows nothing of the trainers."""
