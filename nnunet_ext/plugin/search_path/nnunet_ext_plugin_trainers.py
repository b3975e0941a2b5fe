"""What stock nnU-Net's trainer search imports. Any trainer of nnunet_ext, and any run-length variant, is found here."""

import sys
from pathlib import Path

try:
    import nnunet_ext  # noqa: F401
except ModuleNotFoundError:
    # Reached from another Python environment or an uninstalled clone through the environment variable.
    sys.path.append(str(Path(__file__).resolve().parents[3]))


def __getattr__(name: str) -> type:
    if name.startswith("__"):
        raise AttributeError(name)
    from nnunet_ext.plugin.lookup import find_for_nnunet

    return find_for_nnunet(name)
