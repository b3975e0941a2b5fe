"""What every command line of the project shares: the rich console and the treatment of user errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

from nnunet_ext.errors import UserError


def run(application: Callable[[], object]) -> None:
    """Run a typer application; a :class:`UserError` becomes one sentence on stderr and exit code 1."""
    try:
        application()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
