"""The trainers that stock nnU-Net finds by name, one module a paper.

nnU-Net's commands come in by this package, directly or through a trainer derived from one of these. From then on
an uncaught :class:`~nnunet_ext.core.errors.UserError` ends the process with its sentence alone.
"""

from nnunet_ext.core.console import print_without_traceback

print_without_traceback()
