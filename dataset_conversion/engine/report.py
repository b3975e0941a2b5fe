"""What is said of a finished dataset: dataset.json, the report, and the lines on the screen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dataset_conversion.dataset import Dataset
from dataset_conversion.engine.plan import Findings, folder_name
from dataset_conversion.engine.work import Record
from dataset_conversion.options import Options
from dataset_conversion.splits import Split
from nnunet_ext import __version__

console = Console(stderr=True, soft_wrap=True)


def dataset_json(dataset: Dataset, records: Sequence[Record]) -> dict[str, Any]:
    """Content of ``dataset.json``; it lists the training cases where files stay in the source."""
    train = [record for record in records if record.subset == "Tr"]
    content: dict[str, Any] = {
        "name": dataset.name,
        "channel_names": {str(i): name for i, name in enumerate(dataset.channel_names)},
        "labels": dict(dataset.labels),
        "numTraining": len(train),
        "file_ending": dataset.file_ending,
        "licence": dataset.licence,
        "reference": dataset.reference,
        **dataset.extra,
    }
    if any(Path(path).is_absolute() for record in train for path in (*record.images, record.label or "")):
        content["dataset"] = {record.name: {"images": record.images, "label": record.label} for record in train}
    return content


def without(split: Split, names: Mapping[str, str]) -> list[dict[str, list[str]]]:
    """Folds of a split without the cases that were skipped."""
    return [{part: [n for n in cases if n not in names] for part, cases in fold.items()} for fold in split.folds]


def describe(
    dataset: Dataset, records: Sequence[Record], findings: Findings, options: Options, source: Path
) -> dict[str, Any]:
    """Content of ``conversion_report.json``; differing orientations become a note of the findings."""
    split = findings.split
    orientations = Counter(record.orientation for record in records)
    if len(orientations) > 1:
        found = ", ".join(f"{code} {count}" for code, count in orientations.most_common())
        findings.notes.append(f"images have different orientations, which nnU-Net ignores: {found}")
    return {
        "dataset": folder_name(dataset, options),
        "source": str(source.absolute()),
        "licence": dataset.licence,
        "reference": dataset.reference,
        "converted_by": f"nnunet_ext {__version__}",
        "mode": options.mode,
        "check": options.check,
        "converted": {
            f"images{subset}": [r.name for r in records if r.subset == subset]
            for subset in ("Tr", "Ts", "Un")
            if any(r.subset == subset for r in records)
        },
        "orientations": dict(orientations),
        "skipped": findings.skipped,
        "notes": findings.notes,
        "warnings": {record.name: record.warnings for record in records if record.warnings},
        "split": {"rule": split.rule, "folds": without(split, findings.skipped)} if split else None,
    }


def print_summary(report: Mapping[str, Any], target: Path, options: Options) -> None:
    """Print what the report says, shortened, and the next command."""
    counts = ", ".join(f"{len(names)} in {folder}" for folder, names in report["converted"].items())
    verb = "would get" if options.dry_run else "has"
    console.print(f"{target} {verb} these cases: {counts}.", markup=False, highlight=False)
    for note in report["notes"]:
        console.print(f"Note: {note}.", markup=False, highlight=False)
    for title in ("skipped", "warnings"):
        for name, text in list(report[title].items())[:10]:
            lines = text if isinstance(text, str) else "; ".join(text)
            console.print(f"{title.capitalize()}: {name}: {lines}", markup=False, highlight=False)
        if len(report[title]) > 10:
            console.print(f"... and {len(report[title]) - 10} more, in conversion_report.json")
    if report["split"]:
        console.print(f"Split: {report['split']['rule']}.", markup=False, highlight=False)
        for index, fold in enumerate(report["split"]["folds"]):
            text = f"  fold {index}: {len(fold['train'])} to train, {len(fold['val'])} to validate: "
            console.print(text + " ".join(fold["val"]), markup=False, highlight=False)
    console.print(f"Terms of the data: {report['licence']}.", markup=False, highlight=False)
    if not options.dry_run:
        number = int(target.name[len("Dataset") : len("Dataset000")])
        command = f"nnUNetv2_plan_and_preprocess -d {number} --verify_dataset_integrity"
        console.print(f"Next: {command}", markup=False, highlight=False)
