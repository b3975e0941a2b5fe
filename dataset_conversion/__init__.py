"""Conversion of public abdominal datasets, as people download them, to nnU-Net raw format; no torch."""
