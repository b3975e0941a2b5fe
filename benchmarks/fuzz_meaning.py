"""One trial of the fuzzing by meaning: a sound file that says something odd, converted by the command line.

A mutation changes what a file means, not whether its bytes are whole: header fields, number types, label tables, names,
links, bit depths, palettes, units, transfer syntaxes, the folder nnU-Net is given, room on the disk. Each says which
outcomes it allows:

* right: exit code 0, and every case equals its truth voxel by voxel, geometry included;
* named: the same but for origins and directions, and the report says so of the case;
* refused: exit code 1, ``error:`` and a sentence for each thing that is wrong, and nothing that looks like a dataset.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fuzz_slices  # noqa: F401 - registers mutations
import fuzz_tables  # noqa: F401
import fuzz_volumes  # noqa: F401
import numpy as np
from fuzz_scene import MUTATIONS, NAMED, REFUSED, RIGHT, UNION, Scene
from fuzz_targets import SHAPE, differing_cases, write_targets

from dataset_conversion.cli import app
from nnunet_ext.core.console import run
from nnunet_ext.phantom.btcv import write_btcv
from nnunet_ext.phantom.layout import Layout
from nnunet_ext.phantom.msd import write_msd

_UNION_ARGUMENTS = ["-d", "520", "-n", "Union", "--full", "507", "--partial", "90:liver,spleen,stomach"]

NEEDS = {
    "msd": ("nifti", "nifti label", "json", "anything"),
    "lits": ("nifti", "nifti label", "anything"),
    "btcv": ("nifti", "nifti label", "anything"),
    "nih-pancreas": ("dicom", "nifti label", "anything"),
    "sliver07": ("mhd", "anything"),
    "chaos-ct": ("dicom", "png", "anything"),
    "chaos-t1dual": ("dicom", "png", "anything"),
    "chaos-t2spir": ("dicom", "png", "anything"),
    UNION: ("nifti", "nifti label", UNION),
}


def write_union(folder: Path) -> Layout:
    """Two raw datasets that stand alone, and the truth of their union."""
    folder.mkdir(parents=True)
    full = write_btcv(folder.with_name("union full"), numbers=(1, 2), shape=SHAPE)
    partial = write_msd(folder.with_name("union partial"), cases=2, test_cases=0, shape=SHAPE, seed=5)
    os.environ["nnUNet_raw"] = str(folder)
    for arguments in (["btcv", str(full.folder)], ["msd", str(partial.folder)]):
        code, text = _convert([*arguments, "--mode", "copy"])
        assert code == 0, text
    table = np.array([0, 6, 1, 7], np.uint8)  # liver, spleen, stomach
    renumbered = {name: replace(truth, label=table[truth.label]) for name, truth in partial.train.items()}
    return Layout(folder, {**full.train, **renumbered})


def write_all(folder: Path) -> dict[str, Layout]:
    """The phantoms of all datasets, and the union's."""
    return write_targets(folder) | {UNION: write_union(folder / UNION)}


def meaning_trial(name: str, layout: Layout, work: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Run one trial; gives the mutation and the outcome.

    Raises:
        AssertionError: the outcome is not one that the mutation allows.
    """
    shutil.rmtree(work, ignore_errors=True)
    source, raw = work / layout.folder.name, work / "raw"
    shutil.copytree(layout.folder, source, symlinks=True)
    if name == UNION:
        raw = source
    else:
        raw.mkdir()
    os.environ["nnUNet_raw"] = str(raw)
    os.environ.pop("FUZZ_FILE_SIZE", None)
    needs = NEEDS[name][int(rng.integers(len(NEEDS[name])))]
    kind, mutate = MUTATIONS[needs][int(rng.integers(len(MUTATIONS[needs])))]
    scene = Scene(source, rng)
    allowed = mutate(scene)
    before = _snapshot(work)
    arguments = [UNION, *_UNION_ARGUMENTS] if name == UNION else [name, "-np", "1", "--", str(scene.folder)]
    made = "Dataset520*" if name == UNION else "Dataset*"
    code, text = _convert(arguments)
    (dataset,) = sorted(raw.glob(made)) or [None]
    _check_text(code, f"{kind}{scene.note}\n{text}", dataset)
    changed = [path for path, content in before.items() if not path.is_file() or path.read_bytes() != content]
    assert not changed, f"the source was changed: {changed}"
    outcome = REFUSED if code else _judge(dataset, layout)
    assert outcome in allowed, f"{kind}{scene.note}: {outcome}, but allowed is {sorted(allowed)}\n{text}"
    return f"{needs}: {kind}", outcome


def _snapshot(work: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}


def _check_text(code: int, text: str, dataset: Path | None) -> None:
    for leak in ("Traceback", "WARNING: In ", "vnl_", "Warning:", "pixdim[", "setting to", "MetaImage: "):
        assert leak not in text, f"{leak} in the output:\n{text}"
    if code == 0:
        assert dataset is not None, text
        return
    assert code == 1, f"exit code {code}\n{text}"
    assert dataset is None, f"a refused run left {dataset}"
    _, found, message = text.partition("error: ")
    sentences = message.strip().split("\n  ")
    assert found and all(line.endswith((".", ":")) for line in sentences), f"not a sentence each:\n{text}"


def _judge(dataset: Path, layout: Layout) -> str:
    """How the dataset compares with the truth."""
    if not differing_cases(dataset, layout):
        return RIGHT
    odd = differing_cases(dataset, layout, orientation=False)
    moved = differing_cases(dataset, layout)
    warnings = json.loads((dataset / "conversion_report.json").read_text())["warnings"]
    if not odd and moved <= set(warnings):
        return NAMED
    return f"silently wrong ({sorted(odd or moved)})"


def _convert(arguments: list[str]) -> tuple[int, str]:
    """Run the command line in this process; gives the exit code and everything that it wrote."""
    with _caught() as text:
        try:
            run(lambda: app(arguments))
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, text.getvalue()


@contextlib.contextmanager
def _caught() -> Iterator[io.StringIO]:
    """Everything written to the terminal, by libraries in C too; no file may grow beyond FUZZ_FILE_SIZE meanwhile."""
    text = io.StringIO()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with tempfile.TemporaryFile("w+b") as file:
        saved = {number: os.dup(number) for number in (1, 2)}
        for number in saved:
            os.dup2(file.fileno(), number)
        own = io.StringIO()
        if "FUZZ_FILE_SIZE" in os.environ:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["FUZZ_FILE_SIZE"]), before[1]))
        try:
            with contextlib.redirect_stdout(own), contextlib.redirect_stderr(own):
                yield text
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            sys.stdout.flush()
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
            file.seek(0)
            text.write(own.getvalue() + file.read().decode(errors="replace"))
