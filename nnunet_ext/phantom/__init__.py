"""A synthetic abdomen, written in the layouts of the public datasets."""
