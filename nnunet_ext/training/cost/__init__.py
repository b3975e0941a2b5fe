"""What a training step costs, known from tensors without contents: no data, no GPU, and none of the memory itself."""
