"""``python -m dataset_conversion``: the same as ``nnunet-ext convert``."""

from dataset_conversion.cli import app
from nnunet_ext.core.console import run

run(app)
