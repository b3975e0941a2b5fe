"""Damage datasets at random and convert them: every run must end well or with one clear sentence.

    python benchmarks/fuzz_conversion.py 500 --seed 0 -o benchmarks/results/fuzz_conversion.json
    python benchmarks/fuzz_conversion.py 1000 --what meaning -o benchmarks/results/fuzz_conversion_meaning.json

With ``--what meaning`` files stay whole and say something odd; see ``fuzz_meaning.py``. Else each trial copies the
phantom of one dataset in its official layout, damages it once (truncation, altered bytes, files removed, renamed,
exchanged or duplicated), and converts it. Allowed outcomes:

* refused: a UserError of one sentence for each thing that is wrong, and nothing in the raw folder that looks like a
  dataset;
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
from pathlib import Path

import numpy as np
from fuzz_meaning import meaning_trial, write_all
from fuzz_targets import TARGETS, differing_cases, write_targets

from dataset_conversion import engine
from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.layout import Layout

WITHOUT_CHECKSUM = {".nii", ".raw", ".mhd", ".dcm"}


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


def trial(name: str, pristine: Path, layout: Layout, work: Path, rng: np.random.Generator) -> tuple[str, str]:
    """Run one trial; gives the kind of damage and the outcome.

    Raises:
        AssertionError: the outcome is not one of the allowed ones.
    """
    target = TARGETS[name]
    source, raw = work / pristine.name, work / "raw"  # the name of a Decathlon task is part of it
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
        first, *others = str(error).split("\n  ")
        sentences = others or [first]
        assert all(text.endswith(".") and "\n" not in text for text in sentences), f"not one sentence each: {error!r}"
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
    parser.add_argument("--what", choices=["bytes", "meaning"], default="bytes", help="what of the files is changed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this trial alone, to look into a failure")
    parser.add_argument("-o", "--output", type=Path, help="write the counts as JSON")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    datasets: Counter[str] = Counter()
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        pristine = Path(folder, "pristine")
        layouts = write_all(pristine) if arguments.what == "meaning" else write_targets(pristine)
        names = list(layouts)
        for index in range(arguments.count) if arguments.only is None else [arguments.only]:
            rng = np.random.default_rng([arguments.seed, index])
            name = str(rng.choice(names))
            work = Path(folder, "trial")
            try:
                if arguments.what == "bytes":
                    engine.console.quiet = True
                    kind, outcome = trial(name, layouts[name].folder, layouts[name], work, rng)
                else:
                    kind, outcome = meaning_trial(name, layouts[name], work, rng)
            except Exception:  # the very thing that is looked for
                failures.append(f"trial {index} ({name}):\n{traceback.format_exc()}")
                print(failures[-1], file=sys.stderr)
                continue
            outcomes[outcome] += 1
            kinds[f"{kind}: {outcome}"] += 1
            datasets[name] += 1
    result = {
        "trials": arguments.count,
        "what": arguments.what,
        "seed": arguments.seed,
        "failures": len(failures),
        "outcomes": dict(sorted(outcomes.items())),
        "by dataset": dict(sorted(datasets.items())),
        "by change": dict(sorted(kinds.items())),
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
