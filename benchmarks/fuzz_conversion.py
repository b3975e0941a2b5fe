"""Damage datasets at random and convert them: every run must end well or with one clear sentence.

    python benchmarks/fuzz_conversion.py 500 --seed 0 -o benchmarks/results/fuzz_conversion.json

Each trial copies the phantom of one dataset in its official layout, damages it once (truncation, altered bytes, files
removed, renamed, exchanged or duplicated), and converts it. Allowed outcomes:

* refused: a UserError of one line, and nothing in the raw folder that looks like a dataset;
* converted: every case equals its truth voxel by voxel, geometry included;
* faithful: only cases made of the damaged files differ, and only where no reader can know: bytes altered in formats
  without checksums (.nii, .raw, .mhd, .dcm), two sound files exchanged, or a file of an unlabelled test case gone.

Whatever the outcome, the source must be as it was. Anything else, a traceback above all, is reported and fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from dataset_conversion import btcv, chaos, engine, lits, msd, nih_pancreas, sliver07
from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.btcv import write_btcv
from nnunet_ext.phantom.chaos import write_chaos
from nnunet_ext.phantom.layout import Layout, Truth
from nnunet_ext.phantom.lits import write_lits
from nnunet_ext.phantom.msd import write_msd
from nnunet_ext.phantom.nih_pancreas import write_nih_pancreas
from nnunet_ext.phantom.sliver07 import write_sliver07

SHAPE = (8, 20, 24)
WITHOUT_CHECKSUM = {".nii", ".raw", ".mhd", ".dcm"}


@dataclass(frozen=True)
class Target:
    """A dataset: how its phantom is written, how it is converted, and how its cases are found."""

    write: Callable[[Path], Layout]
    convert: Callable[[Path, Options], Path]
    find: Callable[[Path], engine.Findings]


def _chaos(part: chaos.ChaosPart) -> Target:
    return Target(
        lambda folder: write_chaos(folder, part, numbers=(1, 2), shape=SHAPE),
        lambda source, options: chaos.convert_chaos(source, options, part),
        lambda folder: chaos.find_cases(folder, part),
    )


TARGETS = {
    "msd": Target(
        lambda folder: write_msd(folder, cases=3, shape=SHAPE, apple_double=True),
        msd.convert_msd,
        lambda folder: msd.find_cases(msd.find_task(folder), ".nii.gz"),
    ),
    "nih-pancreas": Target(
        lambda folder: write_nih_pancreas(folder, numbers=(1, 2), shape=SHAPE),
        nih_pancreas.convert_nih_pancreas,
        lambda folder: nih_pancreas.find_cases(folder, folder),
    ),
    "sliver07": Target(
        lambda folder: write_sliver07(folder, numbers=(1, 2), shape=SHAPE),
        sliver07.convert_sliver07,
        sliver07.find_cases,
    ),
    "lits": Target(
        lambda folder: write_lits(folder, numbers=(0, 1, 2), shape=SHAPE),
        lits.convert_lits,
        lambda folder: lits.find_cases(folder, {}),
    ),
    "btcv": Target(lambda folder: write_btcv(folder, numbers=(1, 2), shape=SHAPE), btcv.convert_btcv, btcv.find_cases),
    "chaos-ct": _chaos("CT"),
    "chaos-t1dual": _chaos("T1DUAL"),
    "chaos-t2spir": _chaos("T2SPIR"),
}


def damage(folder: Path, rng: np.random.Generator) -> tuple[str, list[Path]]:
    """Damage one or two files below ``folder``; gives the kind and the files as they were named before."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    path = files[rng.integers(len(files))]
    kind = str(rng.choice(["truncate", "empty", "alter", "remove", "rename", "exchange", "duplicate"]))
    content = path.read_bytes()
    if kind == "truncate":
        path.write_bytes(content[: int(len(content) * rng.uniform(0, 1))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "alter":
        altered = bytearray(content)
        for _ in range(int(rng.integers(1, 9))):
            altered[rng.integers(len(altered))] = rng.integers(256)
        path.write_bytes(altered)
    elif kind == "remove":
        path.unlink()
    elif kind == "rename":
        names = [
            f"{path.name}.bak",
            f"x{path.name}",
            path.name.replace("1", "7", 1),
            path.name.upper(),
            f"._{path.name}",
        ]
        path.rename(path.with_name(str(rng.choice(names))))
    elif kind == "exchange":
        alike = [other for other in files if other.suffix == path.suffix and other != path]
        if not alike:
            return "exchange", []
        other = alike[rng.integers(len(alike))]
        path.write_bytes(other.read_bytes())
        other.write_bytes(content)
        return kind, [path, other]
    else:
        copy = path.with_name(f"{path.name.partition('.')[0]} copy.{path.name.partition('.')[2]}")
        shutil.copy(path, copy)
        return kind, [copy]
    return kind, [path]


def differing_cases(dataset: Path, layout: Layout) -> set[str]:
    """Cases of the dataset that are not exactly their truth, and truths that are no case of it."""
    content = json.loads((dataset / "dataset.json").read_text())
    listed = content.get("dataset") or {
        path.name.removesuffix(content["file_ending"]): {
            "images": [
                str(image)
                for image in sorted((dataset / "imagesTr").glob(path.name.removesuffix(content["file_ending"]) + "_0*"))
            ],
            "label": str(path),
        }
        for path in (dataset / "labelsTr").iterdir()
    }
    found = {name: ([dataset / p for p in files["images"]], dataset / files["label"]) for name, files in listed.items()}
    tests: dict[str, list[Path]] = {}
    for path in sorted((dataset / "imagesTs").iterdir()):
        tests.setdefault(path.name.removesuffix(content["file_ending"])[:-5], []).append(path)
    truths = {**layout.train, **layout.test}
    wrong = set(truths) ^ (set(found) | set(tests))
    for name, (images, label) in found.items():
        if name in truths and not (_equal(images, truths[name].channels, truths[name]) and _same(label, truths[name])):
            wrong.add(name)
    for name, images in tests.items():
        if name in truths and not _equal(images, truths[name].channels, truths[name]):
            wrong.add(name)
    return wrong


def _same(label: Path, truth: Truth) -> bool:
    return _equal([label], (truth.label,), truth)


def _equal(paths: list[Path], arrays: tuple[np.ndarray, ...], truth: Truth) -> bool:
    if len(paths) != len(arrays):
        return False
    for path, array in zip(paths, arrays, strict=True):
        image = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(image)
        if voxels.shape != array.shape or not np.array_equal(voxels, array):
            return False
        if not np.allclose(image.GetSpacing(), truth.spacing[::-1], rtol=1e-5):
            return False
        if not np.allclose(image.GetOrigin(), truth.origin[::-1], atol=1e-3):
            return False
    return True


def trial(name: str, pristine: Path, layout: Layout, work: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Run one trial; gives the kind of damage and the outcome.

    Raises:
        AssertionError: the outcome is not one of the allowed ones.
    """
    target = TARGETS[name]
    source, raw = work / "source", work / "raw"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(pristine, source)
    raw.mkdir()
    os.environ["nnUNet_raw"] = str(raw)
    owners: dict[Path, set[str]] = {}
    unlabelled = set(layout.test)
    for case in target.find(source).cases:
        for path in case.sources():
            owners.setdefault(path, set()).add(case.name)
    kind, files = damage(source, rng)
    before = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    try:
        dataset = target.convert(source, Options(mode=str(rng.choice(["link", "copy"]))))  # type: ignore[arg-type]
    except UserError as error:
        assert "\n" not in str(error) and str(error).endswith("."), f"not one sentence: {error!r}"
        assert not list(raw.glob("Dataset*")), "a refused run left a dataset"
        outcome = "refused"
    else:
        wrong = differing_cases(dataset, layout)
        touched = set().union(*(owners.get(path, set()) for path in files))
        new = wrong - set(layout.train) - set(layout.test)
        known = wrong - new
        assert known <= touched, f"cases {sorted(known - touched)} changed, which were not damaged"
        if wrong:
            allowed = (
                (kind == "alter" and files[0].suffix in WITHOUT_CHECKSUM)
                or (kind == "exchange")
                or (kind in ("remove", "rename") and known <= unlabelled)
                or (kind == "duplicate" and not known)
            )
            assert allowed, f"{kind} of {files[0].name} went unnoticed"
        outcome = "faithful" if wrong else "converted"
    after = {path: path.read_bytes() for path in source.rglob("*") if path.is_file()}
    assert before == after, "the source was changed"
    return kind, outcome


def main() -> int:
    """Run the trials and print or write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("count", type=int, help="number of trials")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this trial alone, to look into a failure")
    parser.add_argument("-o", "--output", type=Path, help="write the counts as JSON")
    arguments = parser.parse_args()
    engine.console.quiet = True
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        layouts = {name: target.write(Path(folder, name)) for name, target in TARGETS.items()}
        for index in range(arguments.count) if arguments.only is None else [arguments.only]:
            rng = np.random.default_rng([arguments.seed, index])
            name = str(rng.choice(list(TARGETS)))
            try:
                kind, outcome = trial(name, layouts[name].folder, layouts[name], Path(folder, "trial"), rng)
            except Exception:  # the very thing that is looked for
                failures.append(f"trial {index} ({name}):\n{traceback.format_exc()}")
                print(failures[-1], file=sys.stderr)
                continue
            outcomes[outcome] += 1
            kinds[f"{kind}: {outcome}"] += 1
    result = {
        "trials": arguments.count,
        "seed": arguments.seed,
        "failures": len(failures),
        "outcomes": dict(sorted(outcomes.items())),
        "by damage": dict(sorted(kinds.items())),
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
