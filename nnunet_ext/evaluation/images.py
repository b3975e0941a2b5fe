"""The images that belong to label maps: where they are, and their grey values for a picture."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nnunet_ext.core.errors import last_line
from nnunet_ext.evaluation.reading import Readers, UnreadableError

_CT_WINDOW = (-160.0, 240.0)  # Hounsfield units, soft tissue
_DATASET = re.compile(r"Dataset\d{3}_.+")


def raw_folders(paths: Iterable[Path]) -> list[Path]:
    """Raw datasets, in nnU-Net's layout, that some files or folders belong to.

    Args:
        paths: such as a folder of references or a ``dataset.json``. What lies in a raw dataset belongs to it, and what
            lies below a folder of the same name, such as a model, to that of ``nnUNet_raw``.
    """
    root = os.environ.get("nnUNet_raw")
    found: dict[Path, None] = {}
    for path in paths:
        # Links lead elsewhere: the path as it was given comes first.
        for folder in (path.absolute(), *path.absolute().parents, *path.resolve().parents):
            if (folder / "dataset.json").is_file() and any(folder.glob("images*/")):
                found[folder] = None
            if root and _DATASET.fullmatch(folder.name) and (Path(root) / folder.name).is_dir():
                found[Path(root) / folder.name] = None
    return list(found)


def find_image(
    case: str,
    reference: Path,
    dataset_json: Mapping[str, Any],
    images_dir: Path | None = None,
    raw: Sequence[Path] = (),
) -> Path | None:
    """First channel of a case: in the folder that is given, else named in ``dataset.json``, beside ``labels*`` or raw.

    Args:
        case: Case identifier.
        reference: Its label map.
        dataset_json: Content of ``dataset.json``.
        images_dir: Folder of images; nothing else is searched then.
        raw: Raw datasets to look in, see :func:`raw_folders`.

    Returns:
        The file, or None where there is none.
    """
    name = f"{case}_0000{dataset_json['file_ending']}"
    if images_dir is not None:
        return images_dir / name if (images_dir / name).is_file() else None
    beside = reference.parent.with_name(reference.parent.name.replace("labels", "images"))
    named: Any = dataset_json
    for key in ("dataset", case, "images"):
        named = named.get(key) if isinstance(named, Mapping) else None
    entry = os.path.expandvars(named[0]) if isinstance(named, list) and named and isinstance(named[0], str) else None
    candidates: list[Path] = []
    if entry is not None:
        candidates += [folder / entry for folder in (Path(), reference.parent.parent, *raw)]
    candidates += [beside / name]
    candidates += [folder / images / name for folder in raw for images in ("imagesTr", "imagesTs")]
    return next((c for c in candidates if c.is_file() and c != reference), None)


def read_channels(paths: Sequence[Path], readers: Readers) -> npt.NDArray[np.floating]:
    """Channels of a case, (C, z, y, x), by the first reader that can.

    Raises:
        UnreadableError: If none can.
    """
    problem: Exception = ValueError("nnU-Net reads no files of this format")
    for reader in readers.of(paths[0]):
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):  # nnU-Net prints what is wrong, and raises an error without a word
                return reader().read_images([str(path) for path in paths])[0]
        except Exception as error:  # another reader may take what this one refuses
            problem = error if str(error) else ValueError(" ".join(said.getvalue().split()))
    raise UnreadableError(f"{paths[0]} cannot be read as an image: {last_line(problem)}") from problem


def channel_names(dataset_json: Mapping[str, Any]) -> list[str]:
    """Names of the channels in ``dataset.json``, in their order; empty if it names none."""
    channels = dataset_json.get("channel_names")
    return [str(name) for name in channels.values()] if isinstance(channels, Mapping) else []


def grey_values(image: npt.NDArray[np.floating], channel: str) -> npt.NDArray[np.floating]:
    """A slice scaled to [0, 1]: CT by a window of soft tissue, others by their percentiles 1 and 99.5."""
    low, high = _CT_WINDOW if channel.upper() == "CT" else np.nanpercentile(image, (1, 99.5))
    return np.clip((image - low) / max(high - low, 1e-6), 0, 1)
