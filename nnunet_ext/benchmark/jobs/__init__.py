"""The jobs of a benchmark, one command each: ``python -m nnunet_ext.benchmark.jobs STEP KEY``."""
