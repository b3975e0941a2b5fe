"""Segmentation metrics, tables, statistics and reports; needs numpy, scipy and pandas, no torch."""
