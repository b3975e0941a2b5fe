"""Change at random what the inputs of ``evaluate`` mean, and hold every result against a plain Dice.

    python benchmarks/fuzz_evaluation.py 1000 --seed 0 -o benchmarks/results/fuzz_evaluation.json

Each trial makes three label maps and their predictions, changes one to three things (names and numbers of labels, file
names, formats and types, links, header fields, permissions, files that archives leave behind), evaluates, writes all
results, and reads them again. Allowed outcomes:

* refused: a UserError of one line;
* scored: every Dice equals that of the arrays, computed here by loops over plain numpy, in the table, in summary.json
  and in what is read back; every case that is there is scored or named in the notes.

Anything else, a traceback above all, is reported and fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from nnunet_ext.cli import evaluation as command
from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.conventions import Conventions
from nnunet_ext.evaluation.results import Evaluation

SHAPE = (5, 9, 11)
NAMES = (
    "foreground", "mean", "mean over classes", "Mean  over classes", "case", "label", "key", "Dice", "ignored", "",
    " ", "NA", "nan", "None", "1", "(1, 2)", "a,b", 'a"b', "a|b", "$x$ $_y^", "<b>&amp;", "[red]", "[/]", "läber 肝",
    "line\nbreak", "tab\there", "back\\slash", "%s {x}", "x" * 300, "_", "\u202e", "\x00", "\r", "\ud800",
)  # fmt: skip


@dataclass
class World:
    """The inputs of one trial, in memory until they are written.

    Attributes:
        root: everything lies in here.
        rng: draws what is changed.
        labels: table of dataset.json.
        content: the rest of dataset.json.
        arrays: label maps (reference, prediction) by case; the truth of the oracle.
        after: changes to the written files.
        options: of ``run_evaluate``.
        done: names of the changes.
    """

    root: Path
    rng: np.random.Generator
    labels: dict[str, Any] = field(default_factory=lambda: {"background": 0, "liver": 1, "spleen": 2})
    content: dict[str, Any] = field(
        default_factory=lambda: {"file_ending": ".nii.gz", "channel_names": {"0": "CT"}, "numTraining": 3}
    )
    arrays: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    after: list[Callable[[], None]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def file(self, role: str | None = None, case: str | None = None) -> Path:
        """One file, drawn where it is not given."""
        role = role or str(self.rng.choice(["labelsTr", "predictions"]))
        case = case or str(self.rng.choice(list(self.arrays)))
        return self.root / role / f"{case}{self.content['file_ending']}"

    def write(self) -> None:
        """Write everything, then change the files."""
        for role in ("labelsTr", "predictions"):
            (self.root / role).mkdir(parents=True)
        for case, pair in self.arrays.items():
            for role, array in zip(("labelsTr", "predictions"), pair, strict=True):
                save(self.file(role, case), array)
        (self.root / "dataset.json").write_text(json.dumps({**self.content, "labels": self.labels}))
        for change in self.after:
            change()


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    """Write a label map of shape (z, y, x) in the format of its ending."""
    if not path.name.isprintable() or path.name.startswith("c\udcff"):  # libraries end the process at such a name
        sound = path.with_name(f"sound{''.join(path.suffixes)}")
        save(sound, array, affine)
        sound.rename(path)
        return
    if path.name.endswith((".nii", ".nii.gz")):
        nib.save(nib.Nifti1Image(array.T, np.diag([0.8, 0.7, 2.5, 1]) if affine is None else affine), path)
        return
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 0.7, 2.5))
    image.SetOrigin((-0.0, -0.0, 0.0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))


# ---- what may be changed ----


def _class_name(world: World) -> None:
    name = str(world.rng.choice(np.array(NAMES, dtype=object)))
    world.labels = {"background": 0, name: 1, "spleen": 2}


def _label_table(world: World) -> None:
    tables: list[Any] = [
        {"background": 0, "liver": 1}, {"liver": 1, "spleen": 2}, {"background": 0, "all": [1, 2], "spleen": 2},
        {"background": 0, "liver": 1, "spleen": 2, "none": 3}, {"background": 0, "liver": 2, "spleen": 1},
        {"background": 0, "liver": 1, "ignore": 2}, {"background": 0, "all": [1, 2]}, {"background": 0}, {},
        {"background": 0, "liver": 1.5, "spleen": 2}, {"background": 0, "liver": "1", "spleen": "2"},
        {"background": 0, "liver": 1.0, "spleen": 2.0}, {"0": "background", "1": "liver", "2": "spleen"},
        {"background": 0, "liver": 1, "spleen": 1}, {"background": 0, "all": [0, 1, 2]}, ["liver", "spleen"], None,
        {"background": 0, "liver": 1, "spleen": 2, "far": 60000}, {"background": 0, "liver": -1, "spleen": 2},
        {"background": 0, "liver": [], "spleen": 2}, {"background": 0, "a": [1, 2], "b": [2, 1]},
        {"background": 0, "liver": 1, "spleen": 2, "ignore": 10**12}, {"background": [0], "liver": [1], "spleen": [2]},
    ]  # fmt: skip
    world.labels = tables[int(world.rng.integers(len(tables)))]


def _dataset_json(world: World) -> None:
    changes: list[dict[str, Any]] = [
        {"file_ending": "nii.gz"}, {"file_ending": ".nii"}, {"file_ending": ".NII.GZ"}, {"file_ending": ""},
        {"file_ending": ".jpg"}, {"file_ending": 7}, {"channel_names": {}}, {"channel_names": ["CT"]},
        {"annotated_labels": {"c0": ["liver"]}}, {"annotated_labels": {"c0": "liver"}}, {"annotated_labels": ["c0"]},
        {"annotated_labels": {"c0": []}}, {"overwrite_image_reader_writer": "NoSuchIO"}, {"name": 7}, {"dataset": []},
        {"overwrite_image_reader_writer": "NibabelIO"}, {"overwrite_image_reader_writer": 3}, {"name": "[/b]"},
        {"overwrite_image_reader_writer": "NibabelIOWithReorient"}, {"dataset": {"c0": {"images": 7}}},
    ]  # fmt: skip
    chosen = changes[int(world.rng.integers(len(changes)))]
    path = world.root / "dataset.json"
    world.after.append(lambda: path.write_text(json.dumps({**json.loads(path.read_text()), **chosen})) and None)


def _case_name(world: World) -> None:
    names = ["case 1", "a[red]b", "ä", "NA", "1", "c0_0000", "-x", "a,b", 'q"q', "x.y", "fold_0", "~", "c\udcff"]
    name = str(world.rng.choice(np.array(names, dtype=object)))
    world.arrays = {(name if case == "c1" else case): pair for case, pair in world.arrays.items()}


def _rename(world: World) -> None:
    role, old = str(world.rng.choice(["labelsTr", "predictions"])), str(world.rng.choice(list(world.arrays)))
    new = [f"{old}_0000", old.upper(), f"{old} ", f".{old}", f"{old}.nii", "other"][int(world.rng.integers(6))]
    file = world.file(role, old)
    world.after.append(lambda: file.rename(file.with_name(new + world.content["file_ending"])) and None)


def _format(world: World) -> None:
    file = world.file()
    ending = str(world.rng.choice([".nii", ".mha", ".nrrd", ".NII.GZ", ".gipl"]))
    role, case = file.parent.name, file.name.removesuffix(world.content["file_ending"])

    def change() -> None:
        file.unlink()
        save(file.with_name(case + ending), world.arrays[case][role == "predictions"])

    world.after.append(change)


def _all_formats(world: World) -> None:
    world.content["file_ending"] = str(world.rng.choice([".nii", ".mha", ".nrrd"]))


def _type(world: World) -> None:
    kinds = [np.int16, np.uint16, np.float32, np.float64, np.int8, np.uint32, np.complex64]
    kind, offset = kinds[int(world.rng.integers(len(kinds)))], float(world.rng.choice([0, -6e-8, 9e-4, 5e-3, 0.4]))
    file = world.file()

    def change() -> None:
        image = nib.load(file, mmap=False)
        array = np.asanyarray(image.dataobj).astype(kind)
        nib.save(nib.Nifti1Image(array + kind(offset) if array.dtype.kind == "f" else array, image.affine), file)

    if world.content["file_ending"].startswith(".nii"):
        world.after.append(change)


def _values(world: World) -> None:
    value = float(world.rng.choice([np.nan, np.inf, -1, 0.5, 3, 255, 70000, 1e12]))
    file = world.file()

    def change() -> None:
        image = nib.load(file, mmap=False)
        array = np.asanyarray(image.dataobj).astype(np.float64)
        array.flat[array.size // 2] = value
        nib.save(nib.Nifti1Image(array, image.affine), file)

    if world.content["file_ending"].startswith(".nii"):
        world.after.append(change)


def _shape(world: World) -> None:
    file = world.file()
    shaped: list[Callable[[np.ndarray], np.ndarray]] = [
        lambda a: a[..., None], lambda a: np.stack([a, a], -1), lambda a: a[1:], lambda a: a[0], lambda a: a.T,
        lambda a: a.view([("R", "u1")]) if a.dtype == np.uint8 else a, lambda a: a[:0],
        lambda a: np.stack([a] * 3, -1).astype(np.uint8).view([("R", "u1"), ("G", "u1"), ("B", "u1")])[..., 0],
    ]  # fmt: skip
    chosen = shaped[int(world.rng.integers(len(shaped)))]

    def change() -> None:
        image = nib.load(file, mmap=False)
        with contextlib.suppress(nib.spatialimages.HeaderDataError, ValueError):  # what cannot be written is no input
            nib.save(nib.Nifti1Image(chosen(np.asanyarray(image.dataobj)), image.affine), file)

    if world.content["file_ending"].startswith(".nii"):
        world.after.append(change)


def _header(world: World) -> None:
    """One header field of one file, or of the pair, written into the bytes of the file."""
    both = bool(world.rng.integers(2))
    case = str(world.rng.choice(list(world.arrays)))
    files = [world.file("labelsTr", case), world.file("predictions", case)][: 2 if both else 1]
    fields: list[tuple[str, Any]] = [
        ("xyzt_units", 3), ("xyzt_units", 1), ("xyzt_units", 99), ("pixdim", [1, 1.2, 0.7, 2.5, 0, 0, 0, 0]),
        ("pixdim", [1, 0, 0.7, 2.5, 0, 0, 0, 0]), ("pixdim", [1, np.nan, 0.7, 2.5, 0, 0, 0, 0]), ("srow_x", np.nan),
        ("srow_x", [0, 0, 0, 0]), ("srow_x", [0.8, 0.3, 0, 0]), ("srow_z", [0, 0, 250, 0]), ("sform_code", 0),
        ("qform_code", 0), ("quatern_b", 0.9), ("quatern_b", np.nan), ("qoffset_x", 40), ("scl_slope", 2),
        ("scl_slope", np.nan), ("scl_inter", 1), ("intent_code", 1002), ("descrip", b"\xff" * 80), ("qform_code", 77),
        ("pixdim", [-1, 0.8, 0.7, 2.5, 0, 0, 0, 0]), ("pixdim", [1, -0.8, 0.7, 2.5, 0, 0, 0, 0]), ("vox_offset", 1e9),
        ("datatype", 0), ("bitpix", 3), ("magic", b"xxx"), ("srow_x", [0.0008, 0, 0, 0]),
    ]  # fmt: skip
    name, value = fields[int(world.rng.integers(len(fields)))]

    def change() -> None:
        import gzip

        for file in files:
            content = file.read_bytes()
            packed = file.name.endswith(".gz")
            content = gzip.decompress(content) if packed else content
            header = nib.Nifti1Header(content[:348], check=False)
            header.structarr[name] = value
            content = header.binaryblock + content[348:]
            file.write_bytes(gzip.compress(content) if packed else content)

    if world.content["file_ending"].startswith(".nii"):
        world.done.append(f"{name}={value}")
        world.after.append(change)
        if name.startswith("scl_"):
            world.options["touched"] = True


def _links(world: World) -> None:
    file = world.file()
    kind = int(world.rng.integers(5))

    def change() -> None:
        if kind < 3:
            file.unlink()
        if kind == 0:
            file.symlink_to(world.root / "nowhere")
        elif kind == 1:
            file.symlink_to(file.name)  # to itself
        elif kind == 2:
            file.mkdir()
        elif kind == 3:
            target = world.root / "elsewhere"
            file.rename(target)
            file.symlink_to(target)
        else:
            file.write_bytes(b"")

    world.after.append(change)


def _left_behind(world: World) -> None:
    file = world.file()
    name = str(
        world.rng.choice([f"._{file.name}", ".DS_Store", "Thumbs.db", "overview.png", "notes.txt", "summary.json"])
    )
    world.after.append(lambda: file.with_name(name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X") and None)


def _copy(world: World) -> None:
    file = world.file()
    other = file.with_name(file.name.replace(world.content["file_ending"], ".mha" if world.rng.integers(2) else ".nii"))
    case, role = file.name.removesuffix(world.content["file_ending"]), file.parent.name
    if other != file:  # the dataset's own format counts, so that other values in the other one make no difference
        world.after.append(lambda: save(other, 2 - world.arrays[case][role == "predictions"]))


def _missing(world: World) -> None:
    file = world.file()

    def change() -> None:
        for each in file.parent.glob(f"{file.name.removesuffix(world.content['file_ending'])}.*"):
            each.unlink()

    world.after.append(change)


def _options(world: World) -> None:
    choices: list[dict[str, Any]] = [
        {"allow_missing": True}, {"only_predicted": True}, {"match": "array"},
        {"allow_missing": True, "match": "array"},
        {"no_room": True}, {"output_is_file": True},
    ]  # fmt: skip
    world.options |= choices[int(world.rng.integers(len(choices)))]


CHANGES: tuple[Callable[[World], None], ...] = (
    _class_name, _label_table, _dataset_json, _case_name, _rename, _format, _all_formats, _type, _values, _shape,
    _header, _header, _links, _left_behind, _copy, _missing, _options,
)  # fmt: skip


# ---- the oracle ----


def plain_dice(reference: np.ndarray, prediction: np.ndarray, members: list[int], ignore: int | None) -> float:
    """Dice by counting voxels one by one; NaN where neither holds the class."""
    both = either = 0
    for r, p in zip(reference.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if ignore is not None and r == ignore:
            continue
        both += (r in members) and (p in members)
        either += (r in members) + (p in members)
    return 2 * both / either if either else float("nan")


def judge(world: World, result: Evaluation) -> str | None:
    """What is wrong with a result, or None."""
    content = json.loads((world.root / "dataset.json").read_text())
    labels = {name: v if isinstance(v, list) else [v] for name, v in content["labels"].items()}
    ignore = int(labels["ignore"][0]) if "ignore" in labels else None
    annotated = content.get("annotated_labels", {})
    summary = json.loads((world.root / "out" / "summary.json").read_text())
    per_case = {entry["case"]: entry for entry in summary["metric_per_case"]}
    again = Evaluation.load(world.root / "out")
    notes = {case["case"]: case["note"] for case in result.cases}
    scored = set(result.table["case"])
    left = set(world.arrays) - scored
    if left and not result.notes:
        return f"{sorted(left)} are gone without a word"
    if len(scored) * len(result.targets) != len(result.table):
        return "rows are missing"
    for table in (result.table, again.table):
        for row in table.to_dict("records"):
            if row["case"] not in world.arrays:
                return f"case {row['case']!r} was never there"
            members = [int(v) for v in labels[row["label"]]]
            reference, prediction = world.arrays[row["case"]]
            if "scored as missed" in notes[row["case"]]:
                prediction = np.zeros_like(prediction)
            expected = plain_dice(reference, prediction, members, ignore)
            if row["case"] in annotated and row["label"] not in annotated[row["case"]]:
                expected = float("nan")
            stored = per_case[row["case"]]["metrics"][row["key"]]["Dice"]
            for found in (row["Dice"], stored):
                if not np.isclose(found, expected, rtol=0, atol=1e-9, equal_nan=True):
                    return f"{row['case']}, {row['label']!r}: Dice {found} instead of {expected}"
    return None


# ---- trials ----


def trial(root: Path, seed: int) -> tuple[str, str, list[str]]:
    """Outcome, its message, and the changes of one trial."""
    rng = np.random.default_rng(seed)
    world = World(root, rng)
    for i in range(3):
        reference = (rng.random(SHAPE) < 0.4).astype(np.uint8) * rng.integers(1, 3, SHAPE).astype(np.uint8)
        world.arrays[f"c{i}"] = (reference, np.roll(reference, 1, int(rng.integers(3))))
    drawn = list(rng.permutation(np.array(CHANGES, dtype=object))[: int(rng.integers(1, 4))])
    if _copy in drawn and {_rename, _dataset_json} & set(drawn):
        drawn.remove(_copy)  # the copy would be the file that counts
    for change in sorted(drawn, key=lambda c: c not in {_all_formats, _case_name}):  # names first: the others use them
        world.done.append(change.__name__)
        change(world)
    try:
        world.write()
    except (OSError, ValueError, TypeError, RuntimeError, HeaderDataError, ImageFileError, WrapStructError):
        return "no input", "this file system or format cannot hold it", world.done
    options = {"allow_missing": False, "only_predicted": False, "match": "header"} | {
        key: value for key, value in world.options.items() if key in {"allow_missing", "only_predicted", "match"}
    }
    if "output_is_file" in world.options:
        (root / "out").write_text("")
    error: BaseException | None = None
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings(), room(root, "no_room" in world.options):
            warnings.simplefilter("ignore")
            result = command.run_evaluate(
                root / "labelsTr",
                root / "predictions",
                root / "dataset.json",
                root / "out",
                Conventions(),
                num_processes=1,
                splits_file=None,
                images_dir=None,
                n_worst=1,
                write_report=bool(seed % 5 == 0),
                **options,
            )
        if "touched" in world.options:  # a scale in the header is part of what the file holds: ask nibabel alone
            for case, pair in world.arrays.items():
                world.arrays[case] = tuple(  # type: ignore[assignment]
                    np.rint(nib.load(world.file(role, case)).get_fdata().T).astype(int)
                    if world.file(role, case).is_file()
                    else array
                    for role, array in zip(("labelsTr", "predictions"), pair, strict=True)
                )
        wrong = judge(world, result)
    except UserError as refusal:
        message = str(refusal)
        return ("refused" if "\n" not in message else "FAILED"), message, world.done
    except BaseException as caught:  # anything else is what is looked for
        error = caught
        return "FAILED", "".join(traceback.format_exception(error))[-3000:], world.done
    return ("scored", "", world.done) if wrong is None else ("FAILED", wrong, world.done)


@contextlib.contextmanager
def within(seconds: int) -> Any:
    """Let what hangs fail."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"still at work after {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def room(root: Path, none: bool) -> Any:
    """Let no file grow, as on a full disk."""
    if not none:
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def main() -> int:
    """Run the trials; exit status 1 if one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trials", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=int, default=120, help="a trial that takes longer fails")
    parser.add_argument("-o", "--output", type=Path, help="JSON with the counts")
    arguments = parser.parse_args()
    outcomes: Counter[str] = Counter()
    by_change: dict[str, Counter[str]] = {}
    failures = []
    work = Path(tempfile.mkdtemp(prefix="fuzz_evaluation_"))
    os.environ["COLUMNS"] = "120"
    try:
        for seed in range(arguments.seed * 1_000_000, arguments.seed * 1_000_000 + arguments.trials):
            print(f"\rseed {seed}", end=" ", file=sys.stderr, flush=True)  # a hang in a library shows where
            with within(arguments.seconds):
                outcome, message, changes = trial(work / str(seed), seed)
            outcomes[outcome] += 1
            for change in {c for c in changes if c.startswith("_")}:
                by_change.setdefault(change.lstrip("_"), Counter())[outcome] += 1
            if outcome == "FAILED":
                failures.append({"seed": seed, "changes": changes, "message": message})
                print(f"seed {seed}, {', '.join(changes)}:\n{message}\n", file=sys.stderr, flush=True)
            shutil.rmtree(work / str(seed), ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    summary = {
        "trials": arguments.trials,
        "seed": arguments.seed,
        "outcomes": dict(sorted(outcomes.items())),
        "by_change": {name: dict(sorted(counts.items())) for name, counts in sorted(by_change.items())},
        "failures": failures,
    }
    print(json.dumps(summary["outcomes"]))
    if arguments.output:
        arguments.output.write_text(json.dumps(summary, indent=2) + "\n")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
