"""A synthetic abdomen, written in the layout of each public dataset: fixture, demonstration, documentation.

Pure numpy and scipy for the anatomy; each ``write_*`` function lays out a dataset as its publisher does, so that
converters, demo and tests run without any real data.
"""
