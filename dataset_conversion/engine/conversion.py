"""The steps of a conversion in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from dataset_conversion import checks
from dataset_conversion.cases import Case
from dataset_conversion.dataset import Dataset
from dataset_conversion.engine.plan import (
    Findings,
    check_cases,
    check_headers,
    check_preprocessed_split,
    check_sources_stay,
    check_target,
    raw_folder,
)
from dataset_conversion.engine.publish import publish
from dataset_conversion.engine.report import console, dataset_json, describe, print_summary, without
from dataset_conversion.engine.work import Job, Record, check_images_differ, results, write_json
from dataset_conversion.options import Options
from dataset_conversion.source import natural_key, opened
from nnunet_ext.core.errors import UserError, together


def convert_source(
    source: Path,
    options: Options,
    find: Callable[..., Findings],
    dataset: Dataset | None = None,
    further: Mapping[str, Path] | None = None,
) -> Path:
    """Unpack what the user points at, find its cases and convert them.

    Args:
        source: folder or archive.
        options: the user's choices.
        find: gives the findings of an unpacked folder.
        dataset: what is true of the dataset as a whole; None where ``find`` says it.
        further: folders or archives beside the source, by the name of the parameter of ``find`` that takes the folder.

    Returns:
        The dataset folder.

    Raises:
        UserError: something is missing, ambiguous or damaged.
    """
    if dataset is not None:
        check_target(dataset, options)  # before archives are unpacked
    with ExitStack() as stack:
        folder, temporary = stack.enter_context(opened(source, raw_folder() / f".unpacked-{source.name}"))
        folders = {
            name: stack.enter_context(opened(path, raw_folder() / f".unpacked-{name}-{path.name}"))[0]
            for name, path in (further or {}).items()
        }
        findings = find(folder, **folders)
        described = findings.dataset or dataset
        assert described is not None, f"{find} says nothing of the dataset"
        return convert(described, findings, options, source=source, source_is_temporary=temporary)


def convert(
    dataset: Dataset, findings: Findings, options: Options, *, source: Path, source_is_temporary: bool = False
) -> Path:
    """Build a dataset from its cases.

    Args:
        dataset: what is true of it as a whole.
        findings: its cases and what else was found.
        options: the user's choices.
        source: what the user pointed at, for the report.
        source_is_temporary: the source was unpacked for this run, so nothing may refer to it later.

    Returns:
        The dataset folder (with ``dry_run`` the folder that would be made).

    Raises:
        UserError: the target is taken, or a case is wrong.
    """
    if source_is_temporary:
        options = replace(options, mode="copy")
    target = check_target(dataset, options)
    checks.check_label_table(dataset.labels, source)
    cases = sorted(findings.cases, key=lambda case: natural_key(case.name))
    if not findings.problems:
        check_cases(cases, source)
    check_sources_stay(cases, target)
    check_preprocessed_split(target.name, findings.split)
    check_headers(cases, dataset, findings, options)
    work = target.with_name(f".{target.name}.partial")
    subsets = {case.subset for case in cases} | {"Ts"}  # nnU-Net's own tools expect imagesTs
    if not options.dry_run:
        for name in ("records", "imagesTr", "labelsTr", *(f"images{subset}" for subset in subsets)):
            (work / name).mkdir(parents=True, exist_ok=True)
    # without the further keys of dataset.json, which say nothing of a single case: its record outlives a change of them
    job = Job(None if options.dry_run else work, replace(dataset, extra={}), options)
    done = {record.name: record for record in _run(job, cases, options.processes)}
    problems = [UserError(problem) for case in cases if (problem := done[case.name].problem) is not None]
    if problems:
        raise together(problems)
    records = [done[case.name] for case in cases if done[case.name].skipped is None]
    check_images_differ(records, {case.name: case.image_path for case in cases})
    findings.skipped.update({name: r.skipped for name, r in done.items() if r.skipped is not None})
    report = describe(dataset, records, findings, options, source)
    if not options.dry_run:
        write_json(work / "conversion_report.json", report)
        if findings.split is not None:
            write_json(work / "splits_final.json", without(findings.split, findings.skipped))
        write_json(work / "dataset.json", dataset_json(dataset, records))
        publish(work, target, {path for record in records for path in (*record.images, record.label or "")})
    print_summary(report, target, options)
    return target


def _run(job: Job, cases: Sequence[Case], processes: int) -> Iterator[Record]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        yield from progress.track(results(job, cases, processes), total=len(cases), description="Cases")
