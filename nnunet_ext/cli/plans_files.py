"""Plans files as commands read and write them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from nnunet_ext.core.errors import UserError


def read_json(path: Path, advice: str, if_damaged: str | None = None) -> dict[str, Any]:
    """Content of a plans file or a dataset.json.

    Args:
        path: the file.
        advice: what to do if it is missing.
        if_damaged: what to do if it is no JSON; default: the same.

    Raises:
        UserError: it is either.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"There is no {path}: {advice}.") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON file ({error}): {if_damaged or advice}.") from error
    return content


def new_plans_file(folder: Path, name: str) -> Path:
    """Where plans of a new name go.

    Raises:
        UserError: it is no name of plans, or there are plans of that name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise UserError(f"The name of plans has letters, digits, - and _ alone, got {name!r}.")
    target = folder / f"{name}.json"
    if target.exists():
        raise UserError(f"{target} exists already: choose another name with -o, or delete it.")
    return target
