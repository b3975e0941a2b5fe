"""Numbers that were measured, in the README, the pages and the list of trainers: are they those of benchmarks/results?

    python scripts/measured.py            writes the columns "time" and "memory" of the README, then checks
    python scripts/measured.py --check    checks alone; exit code 1 if anything is stale

A section of a page that links to files in ``benchmarks/results`` is checked: each number with a decimal point must be
in one of these files, to the digits that are printed, or be listed in ``NOT_MEASURED`` with what it is. A row of a
table that begins with the name of a trainer finds its numbers under that trainer, and a column that says what it
holds finds them under that quantity.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from nnunet_ext.plugin.registry import TRAINERS

ROOT = Path(__file__).resolve().parents[1]
RESULTS, README, MEMORY = ROOT / "benchmarks" / "results", ROOT / "README.md", "tensor_memory.json"
# The files whose times are shown; others were measured on a less steady clock, or on another patch.
_TIMED = ("refined_gan", "multi_level", "pann_stage_2", "two_networks", "coarse_to_fine")
TIMES = tuple(f"step_time_{name}_cpu.json" for name in _TIMED)
STOCK = "stock"
MEMORY_QUANTITY = "memory"
_MEANS = ("mean", "foreground", "mean over classes")  # labels of a table of results
_QUANTITIES = {
    "NSD": ("nsd", "surface dice"),
    "Dice": ("dice", "minus stock"),
    "ASSD": ("assd",),
    "HD95": ("hd95",),
    MEMORY_QUANTITY: ("memory", "peak", "mib"),
    "time": ("time", "seconds"),
}

# Numbers of checked sections that stand in no result: by page, each with what it is.
NOT_MEASURED: dict[str, dict[str, str]] = {
    "docs/evaluation.md": {"6.9": "millions of voxels of a mask that the script makes"},
    "docs/methods/pann.md": {"0.0001": "of J_C, from the curves of the runs"},
    "docs/methods/sdnet.md": {
        "1.04": "half of 2.09",
        "1.05": "half of 2.10",
        "1.10": "half of 2.20",
    },
}

_LINK = re.compile(r"\]\((?:\.\./)*benchmarks/results/([\w.]+)\)")
_NUMBER = re.compile(r"(?<![\w.])[+\-−]?(\d+\.\d+)(?![\w.]*\w)")
_NOT_TEXT = re.compile(r"```.*?```|`[^`\n]*=[^`\n]*`|\]\([^)]*\)|https?://\S+", re.DOTALL)
_TRAINER = re.compile(r"`(\w+)`(?! with)|(stock)\b")


def arm_name(text: str) -> str:
    """One name for what results and pages call an arm."""
    name = text.strip().strip("`").removeprefix("nnUNetTrainer")
    return STOCK if not name or name.startswith("@") or STOCK in name else name  # @: with so many iterations an epoch


@dataclass(frozen=True)
class Measured:
    """A number of a file of results.

    Attributes:
        value: the number.
        arm: of the trainer or training; "" if it is of none.
        quantity: "Dice", "ASSD", "HD95", "NSD", "time" or "memory"; "" if it is something else.
        of_a_class: whether it is of one class where others are means over classes.
    """

    value: float
    arm: str = ""
    quantity: str = ""
    of_a_class: bool = False


def quantity(text: str) -> str:
    """What a heading or a key of a file is about."""
    return next((name for name, words in _QUANTITIES.items() if any(word in text.lower() for word in words)), "")


def _of_json(content: Any, arm: str = "", what: str = "") -> Iterator[Measured]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _of_json(value, arm_name(key) if key.startswith("nnUNetTrainer") else arm, quantity(key))
    elif isinstance(content, list):
        for value in content:
            yield from _of_json(value, arm, what)
    elif isinstance(content, (int, float)) and not isinstance(content, bool):
        yield Measured(float(content), arm, what)


def cells_of(line: str) -> list[str]:
    """Cells of a row of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _of_markdown(text: str) -> Iterator[Measured]:
    head: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            head = []
            for number in _NUMBER.findall(line):
                yield Measured(float(number))
            continue
        cells = cells_of(line)
        head = head or cells
        named = dict(zip(head, cells, strict=False))
        arm, of_a_class = arm_name(cells[0]), named.get("label", "mean") not in _MEANS
        for name, cell in zip(head, cells, strict=False):
            for number in _NUMBER.findall(cell):
                yield Measured(float(number), arm, quantity(named.get("metric", name)), of_a_class)


def _of_scores(table: pd.DataFrame) -> Iterator[Measured]:
    """Mean over cases and classes of each run and arm, their mean over runs, and differences from the first arm.

    A run is a fold and, where there are several, also a seed of it.
    """
    arm, run = table.columns[0], next((c for c in ("run", "fold") if c in table), None)
    if run is None or "Dice" not in table:
        return
    metrics = [name for name in table if quantity(str(name))]
    seeds = [[run, "seed"]] if "seed" in table and table["seed"].nunique() > 1 else []
    for place in ([run], *seeds):
        means = table.groupby([arm, *place], sort=False)[metrics].mean()
        first = means.loc[table[arm].iloc[0]]
        for name, own in means.groupby(level=0, sort=False):
            runs = own.loc[name], own.loc[name] - first
            for values in (*runs, *(each.mean().to_frame().T for each in runs)):
                for metric in metrics:
                    for number in values[metric]:
                        yield Measured(float(number), arm_name(str(name)), quantity(str(metric)))


@cache
def measured(name: str) -> tuple[Measured, ...]:
    """Numbers of a file of results and, for a table of scores, what follows from the CSV beside it."""
    file = RESULTS / name
    found: list[Measured] = []
    if file.suffix == ".json":
        tensors = MEMORY_QUANTITY if name == MEMORY else ""
        found += [
            replace(each, quantity=tensors or each.quantity)
            for each in _of_json(json.loads(file.read_text(encoding="utf-8")))
        ]
    elif file.suffix == ".md":
        found += _of_markdown(file.read_text(encoding="utf-8"))
    if file.with_suffix(".csv").is_file() and file.suffix in (".md", ".csv"):
        found += _of_scores(pd.read_csv(file.with_suffix(".csv")))
    return tuple(found)


def is_there(text: str, numbers: Iterable[Measured]) -> bool:
    """Whether a printed number is one of these, rounded to its digits; the sign is left to the reader."""
    value, digits = abs(float(text)), len(text.partition(".")[2])
    return any(abs(abs(number.value) - value) <= 0.502 * 10.0**-digits for number in numbers)


def sections(text: str) -> Iterator[tuple[str, list[str]]]:
    """Sections of the second level that link to results, and the names of the files."""
    for section in re.split(r"^(?=## )", text, flags=re.MULTILINE):
        names = list(dict.fromkeys(_LINK.findall(section)))
        if names:
            yield section, names


def stale(page: str, text: str, not_measured: dict[str, str] | None = None) -> list[str]:
    """What is wrong with the numbers of a page, a line for each.

    Args:
        page: its name, for the lines.
        text: its content.
        not_measured: numbers that are none of the results, with what they are.
    """
    known, used, found = not_measured or {}, set(), []
    for section, names in sections(text):
        numbers = [number for name in names for number in measured(name)]
        head: list[str] = []
        for line in _NOT_TEXT.sub(" ", section).splitlines():
            cells, head = (cells_of(line), head or cells_of(line)) if line.lstrip().startswith("|") else ([line], [])
            for i, cell in enumerate(cells):
                own = _of_cell(cells, head, i, numbers)
                for number in _NUMBER.findall(cell):
                    if number in known:
                        used.add(number)
                    elif not is_there(number, own):
                        found.append(f"{page}: {number} is not in {', '.join(names)}: {line.strip()[:100]}")
    return found + [
        f"{page}: {number} is listed as not measured and is not there" for number in known if number not in used
    ]


def _of_cell(cells: list[str], head: list[str], i: int, numbers: list[Measured]) -> list[Measured]:
    """Numbers that may stand in a cell: of its row's training, of its column's quantity, and no class's own."""
    if not head:
        return numbers
    row, what = _TRAINER.match(cells[0]), quantity(head[i]) if i < len(head) else ""
    arm = arm_name(row[1] or row[2]) if row else ""
    arms = {arm, "", STOCK if what == MEMORY_QUANTITY else ""} if any(n.arm == arm for n in numbers) and arm else None
    return [
        number
        for number in numbers
        if not number.of_a_class
        and (arms is None or number.arm in arms)
        and (not what or number.quantity in (what, ""))
    ]


def times() -> dict[str, str]:
    """Time of an iteration relative to stock nnU-Net, as it is shown, by trainer."""
    found = {}
    for name in TIMES:
        for trainer, values in json.loads((RESULTS / name).read_text(encoding="utf-8"))["trainers"].items():
            ratio = Decimal(str(values["time_ratio"])).quantize(Decimal("0.01"), ROUND_HALF_UP)
            if trainer in found:
                raise ValueError(f"{trainer} was measured in two of {TIMES}")
            if trainer in TRAINERS:
                found[trainer] = str(ratio)
    return found


def memories() -> dict[str, str]:
    """Peak of all tensors relative to stock nnU-Net, as it is shown, by trainer; of those in 2d alone, in 2d."""
    predicted = json.loads((RESULTS / MEMORY).read_text(encoding="utf-8"))["predicted"]
    return {
        name: f"{cost['ratio']:.{2 if cost['ratio'] < 10 else 1}f}{note}"
        for configuration, note in (("2d", " (2d)"), ("3d_fullres", ""))
        for name, cost in predicted[configuration]["trainers"].items()
        if name in TRAINERS
    }


def pages_of_trainers() -> dict[str, str]:
    """The page of each trainer, by the README's table."""
    found = {}
    for line in README.read_text(encoding="utf-8").splitlines():
        cells = line.split("|")
        if len(cells) > 7 and cells[2].strip(" `") in TRAINERS:
            found[cells[2].strip(" `")] = re.findall(r"\]\(([^)]+)\)", cells[6])[0]
    return found


def stale_trainers() -> list[str]:
    """What is wrong with times and gains in the list of trainers."""
    found, shown, pages = [], times(), pages_of_trainers()
    for name, entry in TRAINERS.items():
        if entry.time != shown.get(name, "-"):
            found.append(f"{name}: the list says {entry.time} times stock's time, {', '.join(TIMES)} {shown.get(name)}")
        text = (ROOT / pages[name]).read_text(encoding="utf-8")
        numbers = [number for _, names in sections(text) for file in names for number in measured(file)]
        for number in _NUMBER.findall(entry.gain):
            own = [each for each in numbers if each.arm in (arm_name(name), STOCK) and not each.of_a_class]
            if not is_there(number, [each for each in own if each.quantity in (quantity(entry.gain), "")]):
                found.append(f"{name}: the gain {number} is not in the results that {pages[name]} links to")
    return found


def readme() -> str:
    """The README with the columns "time" and "memory" as they were measured."""
    lines, time, memory = README.read_text(encoding="utf-8").splitlines(), times(), memories()
    for i, line in enumerate(lines):
        cells = line.split("|")
        if len(cells) > 7 and (name := cells[2].strip(" `")) in TRAINERS:
            cells[3] = re.sub(r"[\d.]+|(?<= )-(?= )", time.get(name, "-"), cells[3], count=1)
            cells[4] = f" {memory.get(name, '-')} "
            lines[i] = "|".join(cells)
    return "\n".join(lines) + "\n"


def problems() -> list[str]:
    """All that is stale."""
    found = stale_trainers()
    if readme() != README.read_text(encoding="utf-8"):
        found.append("README.md: time or memory is not as measured: run python scripts/measured.py")
    for file in sorted((ROOT / "docs").rglob("*.md")):
        page = file.relative_to(ROOT).as_posix()
        found += stale(page, file.read_text(encoding="utf-8"), NOT_MEASURED.get(page))
    return found


def main() -> None:
    """Write, unless told to check alone, and check."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit(__doc__)
    if not sys.argv[1:]:
        README.write_text(readme(), encoding="utf-8")
    found = problems()
    sys.exit("\n".join(found) if found else 0)


if __name__ == "__main__":
    main()
