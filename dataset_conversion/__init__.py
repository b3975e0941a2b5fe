"""Conversion of public abdominal datasets, as people download them, to nnU-Net raw format; no torch.

One module per dataset finds its cases and knows how to read one of them, and has its entry in
:mod:`~dataset_conversion.registry`, from which the command line is made. What they share stands once:
:mod:`~dataset_conversion.source` (folders, archives), :mod:`~dataset_conversion.formats` (reading and writing),
:mod:`~dataset_conversion.checks`, and :mod:`~dataset_conversion.engine` (plan, work, report, publish).
"""
