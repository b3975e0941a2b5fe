"""Find a trainer by name: ours, stock ones, those of other folders, and run-length variants of all of them."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import nnunetv2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import (
    recursive_find_python_class,
    temporarily_cleanup_imports_from_path,
    temporarily_extend_syspath,
)

from nnunet_ext.core.console import print_without_traceback
from nnunet_ext.core.errors import UserError, last_line
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.plugin.startup import VARIABLE, plugin_folder
from nnunet_ext.training.run_length import run_length_variant, split_run_length

_PREFIX = "nnUNetTrainer"
_STOCK_PACKAGE = "nnunetv2.training.nnUNetTrainer"
_variants: dict[str, type[nnUNetTrainer]] = {}


def find_trainer(name: str) -> type[nnUNetTrainer]:
    """Return the trainer class called ``name``.

    Args:
        name: one of ours, a stock trainer, or one of another folder in ``nnUNet_extTrainer``, each with or without
            a run-length suffix (see :mod:`nnunet_ext.training.run_length`).

    Raises:
        AttributeError: there is no such trainer.
    """
    if name in _variants:
        return _variants[name]
    found = _find_as_it_is(name)
    if found is not None:
        return found
    base_name, epochs, iterations = split_run_length(name)
    # A class may be called like a variant itself: nnUNetTrainerBenchmark_5epochs_10iters.
    for base_name_here, epochs_here in ((f"{base_name}_{epochs}epochs", None), (base_name, epochs)):
        if epochs_here is None and iterations is None:
            continue
        base = _find_as_it_is(base_name_here)
        if base is not None:
            _variants[name] = run_length_variant(name, __name__, base, epochs_here, iterations)
            return _variants[name]
    raise AttributeError(f"there is no trainer called {name}")


def __getattr__(name: str) -> type[nnUNetTrainer]:
    """Let pickle find a run-length variant again by module and name, in spawned processes too."""
    if not name.startswith(_PREFIX):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return find_trainer(name)


def did_you_mean(name: str) -> str:
    """A sentence that names the closest known trainers, for a name that was not found."""
    if re.search(r"_0+(epochs?|iters?)(_|$)", name):
        return f"There is no trainer called {name}: a run has at least 1 epoch of at least 1 iteration."
    base_name = split_run_length(name)[0]
    suffix = name[len(base_name) :]
    # Trainer names share a long prefix, which would make all of them look alike; case is what people get wrong.
    by_tail = {known.removeprefix(_PREFIX).lower(): known for known in sorted({*TRAINERS, *_stock_names()})}
    wanted = base_name.lower().removeprefix(_PREFIX.lower())
    close = [by_tail[tail] + suffix for tail in difflib.get_close_matches(wanted, by_tail, n=3, cutoff=0.5)]
    advice = f"did you mean {' or '.join(close)}?" if close else "nnunet-ext trainers lists ours."
    return f"There is no trainer called {name}: {advice}"


def find_for_nnunet(name: str) -> type[nnUNetTrainer]:
    """:func:`find_trainer` as stock nnU-Net's search calls it, through ``hasattr`` on the plugin module.

    Raises:
        AttributeError: not found, and other folders are still to be searched.
        UserError: not found anywhere; says which names are close.
    """
    print_without_traceback()
    try:
        return find_trainer(name)
    except AttributeError:
        if name.startswith(_PREFIX) and _is_last_folder():
            raise UserError(did_you_mean(name)) from None
        raise


def modules_that_fail() -> list[str]:
    """Modules in other folders of ``nnUNet_extTrainer`` that cannot be imported: file and error of each.

    nnU-Net imports every one of them, in this way, whenever it looks for a trainer that is not its own.
    """
    problems: list[str] = []
    for folder in _other_folders():
        with (
            contextlib.redirect_stdout(io.StringIO()),
            temporarily_extend_syspath(folder),
            temporarily_cleanup_imports_from_path(folder),
        ):
            problems += _failures(Path(folder), "")
    return problems


def _failures(folder: Path, prefix: str) -> Iterator[str]:
    for module in pkgutil.iter_modules([str(folder)]):
        name = prefix + module.name
        if module.ispkg:
            yield from _failures(folder / module.name, f"{name}.")
            continue
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:  # whatever is written in somebody's file
            if not (isinstance(error, ModuleNotFoundError) and error.name == name):  # nnU-Net passes over that
                yield f"{folder / module.name}.py ({type(error).__name__}: {last_line(error)})"


def _find_as_it_is(name: str) -> type[nnUNetTrainer] | None:
    """The class of this very name: ours, stock nnU-Net's, then those of other folders."""
    if name in TRAINERS:
        return getattr(_import(TRAINERS[name].module), name)
    stock = Path(nnunetv2.__path__[0])
    found = recursive_find_python_class(str(stock / "training" / "nnUNetTrainer"), name, _STOCK_PACKAGE, str(stock))
    for folder in _other_folders():
        if found is not None:
            break
        found = recursive_find_python_class(
            folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True
        )
    return found


def _import(module: str) -> object:
    try:
        return importlib.import_module(module)
    except AttributeError as error:
        # nnU-Net searches with hasattr, which would take this for "there is no such trainer".
        raise ImportError(f"{module} cannot be imported: {error}") from error


def _folders() -> list[str]:
    """The folders that nnU-Net searches beside its own, in its order."""
    parts = os.environ.get(VARIABLE, "").split(os.pathsep)
    return [part for part in parts if part.strip() and Path(part).exists()]


def _other_folders() -> Iterator[str]:
    return (folder for folder in _folders() if not Path(folder).samefile(plugin_folder()))


def _is_last_folder() -> bool:
    folders = _folders()
    return bool(folders) and Path(folders[-1]).samefile(plugin_folder())


def _stock_names() -> set[str]:
    """Names of all stock trainers."""
    for module in pkgutil.walk_packages(importlib.import_module(_STOCK_PACKAGE).__path__, f"{_STOCK_PACKAGE}."):
        importlib.import_module(module.name)
    names, queue = set(), [nnUNetTrainer]
    while queue:
        trainer = queue.pop()
        queue.extend(trainer.__subclasses__())
        if trainer.__module__.startswith("nnunetv2."):
            names.add(trainer.__name__)
    return names
