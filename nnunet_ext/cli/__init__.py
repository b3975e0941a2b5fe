"""The ``nnunet-ext`` command: a module per group of commands, one short function per command."""

from __future__ import annotations


def main() -> None:
    """Entry point of ``nnunet-ext``."""
    from nnunet_ext.cli.app import app
    from nnunet_ext.core.console import run

    run(app)
