"""Pure PyTorch losses: a function per equation and a thin module; knows nothing of nnU-Net."""
