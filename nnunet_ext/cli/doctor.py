"""``nnunet-ext doctor``: what the stock commands need to run the trainers, checked line by line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from nnunet_ext import __version__
from nnunet_ext.core.environment import FOLDER_VARIABLES, require_folder, require_nnunet
from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.startup import OPT_OUT_VARIABLE, VARIABLE, plugin_folder


def describe_unfinished_conversions(raw: Path) -> str:
    """What interrupted conversions have left in nnU-Net's raw folder, and what to do with it."""
    names = sorted(path.name for path in raw.glob(".*.partial") if path.is_dir())
    if not names:
        return "none unfinished"
    return (
        f"unfinished: {', '.join(names)}; the same nnunet-ext convert command goes on from there, "
        "or delete them if none is running"
    )


def require_plugin() -> str:
    """Return the plugin folder.

    Raises:
        UserError: nnU-Net would not search it.
    """
    folder = plugin_folder()
    parts = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    if not any(Path(part).is_dir() and Path(part).samefile(folder) for part in parts):
        reason = f" ({OPT_OUT_VARIABLE} is set)" if os.environ.get(OPT_OUT_VARIABLE) else ""
        raise UserError(f"nnU-Net does not search our trainers{reason}: export {VARIABLE}={folder}.")
    return folder


def describe_device() -> str:
    """What training would run on."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}, {torch.cuda.device_count()} GPU(s)"
    if torch.backends.mps.is_available():
        return "mps: Apple GPU (use -device mps)"
    return f"cpu: {os.cpu_count()} cores (use -device cpu)"


def find_all_trainers() -> str:
    """Find every public trainer by nnU-Net's own search.

    Raises:
        UserError: one is not found, another class of its name is found first, or a module of the user's own trainers
            cannot be imported, on which the search would end.
    """
    import contextlib
    import io

    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    from nnunet_ext.plugin.lookup import modules_that_fail
    from nnunet_ext.plugin.registry import TRAINERS

    if broken := modules_that_fail():
        raise UserError(
            f"nnU-Net imports all modules in {VARIABLE} and stops at {'; '.join(broken)}: mend them, or take their "
            "folder out of that variable."
        )
    for entry in TRAINERS.values():
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # nnU-Net prints where it searches
                found = recursive_find_trainer_class_by_name(entry.name)
        except RuntimeError as error:
            raise UserError(f"nnU-Net does not find {entry.name}: {error}") from error
        if found.__module__ != entry.module:
            raise UserError(f"{entry.name} is taken by {found.__module__}: remove or rename that one.")
    return f"{len(TRAINERS)} found by name"


@dataclass(frozen=True)
class Finding:
    """One line of ``nnunet-ext doctor``: what was checked, whether it is fine, and what is or what to do."""

    subject: str
    is_fine: bool
    message: str


def examine() -> Iterator[Finding]:
    """Check everything that the stock commands need to run our trainers; quick checks first."""
    yield Finding("Python", True, f"{sys.version.split()[0]}, {sys.prefix}")
    yield Finding("nnunet_ext", True, __version__)
    raw = os.environ.get("nnUNet_raw") or os.devnull
    checks: dict[str, Callable[[], object]] = {
        "nnunetv2": require_nnunet,
        **{variable: partial(require_folder, variable) for variable in FOLDER_VARIABLES},
        # no fault: a conversion may be running
        **({"conversions": partial(describe_unfinished_conversions, Path(raw))} if Path(raw).is_dir() else {}),
        "plugin folder": require_plugin,
        "torch": lambda: metadata.version("torch"),
        "device": describe_device,
        "trainers": find_all_trainers,
    }
    for subject, check in checks.items():
        try:
            yield Finding(subject, True, str(check()))
        except UserError as error:
            yield Finding(subject, False, str(error))
        except (ImportError, OSError) as error:  # a package is missing, or its libraries cannot be loaded
            yield Finding(subject, False, f"{type(error).__name__}: {error}: reinstall with pip install nnunet_ext.")
