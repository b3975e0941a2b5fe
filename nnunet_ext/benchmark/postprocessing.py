"""Post-processing of predictions before they are scored, where a benchmark asks for it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.spec import Spec


@contextmanager
def postprocessed(spec: Spec, predictions: Path, dataset_json: Path) -> Iterator[Path]:
    """A folder with the predictions as they are scored: as they are, or the largest component of each class alone.

    Args:
        spec: the benchmark.
        predictions: folder of label maps, which stays as it is.
        dataset_json: of the dataset.
    """
    if spec.postprocessing == "none":
        yield predictions
        return
    from nnunet_ext.evaluation.targets import read_dataset_json

    about = read_dataset_json(dataset_json)
    files = sorted(predictions.glob(f"*{about['file_ending']}"))
    with tempfile.TemporaryDirectory(dir=predictions.parent, prefix=".postprocessed_") as scratch:
        keep = partial(keep_largest_components, about=about, output=Path(scratch))
        if spec.resources.cpus == 1:
            list(map(keep, files))
        else:
            with ProcessPoolExecutor(spec.resources.cpus, get_context("spawn")) as pool:
                list(pool.map(keep, files))
        yield Path(scratch)


def keep_largest_components(file: Path, about: dict[str, Any], output: Path) -> None:
    """Write a label map in which each class, or region, is its largest component; what is lost becomes background.

    Args:
        file: the label map.
        about: content of dataset.json.
        output: folder.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    from nnunetv2.postprocessing.remove_connected_components import (
        load_postprocess_save,
        remove_all_but_largest_component_from_segmentation,
    )

    reader = determine_reader_writer_from_dataset_json(about, str(file), verbose=False)
    classes = [value for name, value in about["labels"].items() if name not in ("background", "ignore")]
    targets = [{"labels_or_regions": tuple(value) if isinstance(value, list) else value} for value in classes]
    steps = [remove_all_but_largest_component_from_segmentation] * len(targets)
    load_postprocess_save(str(file), str(output / file.name), reader(), steps, targets)
