"""``python -m nnunet_ext``: the same as ``nnunet-ext``."""

from nnunet_ext.cli import main

main()
