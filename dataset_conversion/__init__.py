"""Conversion of public abdominal datasets, as people download them, to nnU-Net raw format; no torch.

One module per dataset finds its cases and knows how to read one of them; what they share stands once:
:mod:`~dataset_conversion.source` (folders, archives), :mod:`~dataset_conversion.volumes` (reading and writing),
:mod:`~dataset_conversion.checks`, and :mod:`~dataset_conversion.engine` (workers, target folder, report).
"""
