"""Find a trainer by name: ours, stock ones, those of other folders, and run-length variants of all of them."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Iterator
from pathlib import Path

import nnunetv2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunet_ext.errors import UserError
from nnunet_ext.plugin.startup import VARIABLE, plugin_folder
from nnunet_ext.trainers.registry import TRAINERS
from nnunet_ext.trainers.run_length import run_length_variant, split_run_length

_variants: dict[str, type[nnUNetTrainer]] = {}


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """Return the trainer class called ``name``.

    Args:
        name: one of ours, a stock trainer, or one of another folder in ``nnUNet_extTrainer``, each with or without
            a run-length suffix (see :mod:`nnunet_ext.trainers.run_length`).

    Raises:
        AttributeError: there is no such trainer.
    """
    if name in TRAINERS:
        return getattr(importlib.import_module(TRAINERS[name].module), name)
    base_name, epochs, iterations = split_run_length(name)
    if epochs is None and iterations is None:
        raise AttributeError(f"there is no trainer called {name}")
    if name not in _variants:
        base = TRAINERS.get(base_name)
        base_class = find_trainer(base_name) if base is not None else _find_elsewhere(base_name)
        if base_class is None:
            raise AttributeError(f"there is no trainer called {base_name}")
        _variants[name] = run_length_variant(name, base_class, epochs, iterations)
    return _variants[name]


def did_you_mean(name: str) -> str:
    """A sentence that names the closest known trainers, for a name that was not found."""
    base_name, _, _ = split_run_length(name)
    known = sorted({*TRAINERS, *_stock_names()})
    # Trainer names share a long prefix, which would make all of them look alike.
    prefix = "nnUNetTrainer"
    by_tail = {known_name.removeprefix(prefix).lower(): known_name for known_name in known}
    close = difflib.get_close_matches(base_name.removeprefix(prefix).lower(), by_tail, n=3, cutoff=0.5)
    if not close:
        close = [tail for tail, known_name in by_tail.items() if known_name.lower() == base_name.lower()]
    suffix = name[len(base_name) :]
    suggestions = " or ".join(by_tail[tail] + suffix for tail in close)
    return f"There is no trainer called {name}: " + (
        f"did you mean {suggestions}?" if suggestions else "see nnunet-ext trainers for the names."
    )


def find_for_nnunet(name: str) -> type[nnUNetTrainer]:
    """:func:`find_trainer` as stock nnU-Net's search calls it, through ``hasattr`` on the plugin module.

    Raises:
        AttributeError: not found, and other folders are still to be searched.
        UserError: not found anywhere; says which names are close.
    """
    try:
        return find_trainer(name)
    except AttributeError:
        if name.startswith("nnUNetTrainer") and _is_last_folder():
            raise UserError(did_you_mean(name)) from None
        raise


def _other_folders() -> Iterator[str]:
    """The folders of ``nnUNet_extTrainer`` that are not ours."""
    for part in os.environ.get(VARIABLE, "").split(os.pathsep):
        if part.strip() and Path(part).exists() and not Path(part).samefile(plugin_folder()):
            yield part


def _is_last_folder() -> bool:
    parts = [p for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p.strip() and Path(p).exists()]
    return bool(parts) and Path(parts[-1]).samefile(plugin_folder())


def _find_elsewhere(name: str) -> type[nnUNetTrainer] | None:
    """Search stock nnU-Net, then the other folders, in nnU-Net's own order."""
    stock = Path(nnunetv2.__path__[0])
    found = recursive_find_python_class(
        str(stock / "training" / "nnUNetTrainer"), name, "nnunetv2.training.nnUNetTrainer", str(stock)
    )
    for folder in _other_folders():
        if found is not None:
            break
        found = recursive_find_python_class(
            folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True
        )
    return found


def _stock_names() -> set[str]:
    """Names of all stock trainers."""
    package = "nnunetv2.training.nnUNetTrainer"
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
        importlib.import_module(module.name)
    names, queue = set(), [nnUNetTrainer]
    while queue:
        trainer = queue.pop()
        queue.extend(trainer.__subclasses__())
        if trainer.__module__.startswith("nnunetv2."):
            names.add(trainer.__name__)
    return names
