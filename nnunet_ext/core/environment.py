"""What the project needs of the machine: nnU-Net's version and folders."""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path

from nnunet_ext import __version__
from nnunet_ext.core.errors import UserError

NNUNET_VERSIONS = ((2, 8), (2, 9))  # from the first, before the second
FOLDER_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


def require_nnunet() -> str:
    """Return the version of nnunetv2.

    Raises:
        UserError: nnunetv2 is missing, too old or too new.
    """
    first, end = (".".join(map(str, v)) for v in NNUNET_VERSIONS)
    install = f"pip install 'nnunetv2>={first},<{end}'"
    try:
        version = metadata.version("nnunetv2")
    except metadata.PackageNotFoundError:
        raise UserError(f"nnunetv2 is not installed: run {install}.") from None
    major_minor = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if not NNUNET_VERSIONS[0] <= major_minor < NNUNET_VERSIONS[1]:
        old_or_new = "old" if major_minor < NNUNET_VERSIONS[0] else "new"
        raise UserError(f"nnunetv2 {version} is too {old_or_new} for nnunet_ext {__version__}: run {install}.")
    return version


def folder_value(variable: str) -> str:
    """Return what one of nnU-Net's folder variables is set to.

    Raises:
        UserError: it is unset, or has quotes, blanks or a ``~`` that no shell has taken away: as a path they would be
            a folder of that name below the current one.
    """
    value = os.environ.get(variable)
    if not value:
        raise UserError(f"The environment variable {variable} is not set: export {variable}=/path/to/a/folder.")
    plain = os.path.expanduser(value.strip().strip("\"'").strip())  # noqa: PTH111 - a path would lose the blanks
    if plain != value:
        raise UserError(
            f"{variable} is set to {value} with the quotes, blanks or ~ in it, which no shell has taken away: set it "
            f"to {plain}."
        )
    return value


def require_folder(variable: str) -> Path:
    """Return one of nnU-Net's three folders.

    Raises:
        UserError: the variable is unset or wrongly quoted, or its folder does not exist.
    """
    value = folder_value(variable)
    if not Path(value).is_dir():
        raise UserError(f"{variable} points at {value}, which is not a folder: create it or change the variable.")
    return Path(value)


def find_dataset(folder: Path, dataset: str) -> str:
    """Name of a dataset in one of nnU-Net's folders, given its number or name.

    Raises:
        UserError: there is none, or there are several of that number.
    """
    if dataset.isdigit():
        found = sorted(path.name for path in folder.glob(f"Dataset{int(dataset):03d}_*") if path.is_dir())
    else:
        found = [dataset] if dataset.startswith("Dataset") and (folder / dataset).is_dir() else []
    if len(found) != 1:
        if found:
            raise UserError(f"{folder} has several datasets {dataset} ({', '.join(found)}): name the one.")
        others = ", ".join(sorted(path.name for path in folder.glob("Dataset*_*") if path.is_dir())) or "none"
        raise UserError(f"{folder} has no dataset {dataset} (there: {others}): convert or copy it there.")
    return found[0]
