"""Benchmarks: a matrix of trainings on datasets, folds and seeds, what each cell left behind, and one report."""
