"""Start-up hook: append our plugin folder to nnU-Net's ``nnUNet_extTrainer`` variable.

Runs at the start of every Python process of the environment (see ``nnunet_ext.pth``), spawned workers included,
so it uses the standard library only and touches nothing but one environment variable.
"""

from __future__ import annotations

import os

VARIABLE = "nnUNet_extTrainer"
OPT_OUT_VARIABLE = "NNUNET_EXT_NO_PLUGIN"


def plugin_folder() -> str:
    """Folder that holds nothing but the module re-exporting our trainers."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "search_path")  # noqa: PTH100, PTH118, PTH120


def register() -> None:
    """Append :func:`plugin_folder` to ``nnUNet_extTrainer``, once; folders of the user stay first and win.

    Set ``NNUNET_EXT_NO_PLUGIN=1`` to leave the variable alone.
    """
    if os.environ.get(OPT_OUT_VARIABLE, "") not in {"", "0"}:
        return
    folder = plugin_folder()
    parts = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    # Not that of another copy, which a parent process or a saved variable names: each would ask the other for ever.
    end = os.path.join("nnunet_ext", "plugin", "search_path")  # noqa: PTH118
    parts = [part for part in parts if part == folder or not part.rstrip("/\\").endswith(end)]
    if folder not in parts:
        os.environ[VARIABLE] = os.pathsep.join([*parts, folder])
