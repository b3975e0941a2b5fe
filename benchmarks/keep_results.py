"""Keep the results of a benchmark in ``benchmarks/results``: every case as CSV, the tables of the report as Markdown.

    python benchmarks/keep_results.py WORK NAME --machine "two-core x86-64 CPU" --against stock_twice

``--against`` adds the paired differences to another arm than the first one. WORK is the work folder of ``nnunet-ext
benchmark run``. Curves of all epochs go to NAME_curves.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.report.collect import Results, collect
from nnunet_ext.benchmark.report.page import report_files
from nnunet_ext.benchmark.report.scores import differences
from nnunet_ext.benchmark.report.tables import difference_table
from nnunet_ext.benchmark.scores import of_single_cases

RESULTS = Path(__file__).parent / "results"


def _against(results: Results, reference: str) -> str:
    """The paired differences of all arms to one of them, as Markdown."""
    arms = results.content["arms"]
    first = {**results.content, "arms": {reference: arms[reference], **arms}}
    compared = replace(results, content=first)
    tables = []
    for setting in compared.settings:
        names = of_single_cases(compared.specification.metrics)
        found = differences(compared, setting, names)
        if found:
            tables.append(difference_table(found, compared.specification.title(setting), names).markdown())
    return "\n".join(tables)


def _run_length(part: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    epochs, iterations = (part.get(key) or whole.get(key) for key in ("epochs", "iterations"))
    return f"{epochs or 'the usual'} epochs of {iterations or 'as many'} iterations"


def described(content: Mapping[str, Any]) -> str:
    """Budget and arms of a benchmark, in words.

    Args:
        content: of its ``benchmark.json``.
    """
    usual = _run_length({}, content)
    folds, seeds = (", ".join(map(str, content[key])) for key in ("folds", "seeds"))
    mirrored = "" if content["mirroring"] else ", images not mirrored"
    precision = "" if content["precision"] == "auto" else f", {content['precision']} on a CPU"
    arms = []
    for name, arm in content["arms"].items():
        length = _run_length(arm, content)
        said = [arm["trainer"], *([length] if length != usual else [])]
        said += [f"{option} = {value}" for option, value in arm.get("options", {}).items()]
        said += [f"plans {arm['plans']}"] if "plans" in arm else []
        said += [f"{key} {', '.join(map(str, arm[key]))} alone" for key in ("folds", "datasets") if key in arm]
        arms.append(f"- {name}: {', '.join(said)}")
    return f"Folds {folds}; seeds {seeds}; {usual}{mirrored}{precision}. Arms:\n\n" + "\n".join(arms)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="work folder of the benchmark")
    parser.add_argument("name", help="of the files")
    parser.add_argument("--machine", required=True, help="said in the result")
    parser.add_argument("--against", nargs="*", default=[], help="arms that the others are compared with besides")
    arguments = parser.parse_args()
    results = collect(arguments.work)
    place = ["arm", "seed", "fold", "dataset", "configuration", "case", "label"]
    scored = results.values[~results.values["label"].isin(results.specification.merged)]
    values = scored.pivot(index=place, columns="metric", values="value").reset_index()
    arms = list(results.specification.arm_names)
    values = values.sort_values("arm", key=lambda names: names.map(arms.index), kind="stable")
    values.round(5).to_csv(RESULTS / f"{arguments.name}.csv", index=False)
    curves = ["arm", "seed", "fold", "epoch", "train_loss", "val_loss", "pseudo_dice", "seconds"]
    results.curves[curves].round(4).to_csv(RESULTS / f"{arguments.name}_curves.csv", index=False)
    files = report_files(results)
    versions = ", ".join(sorted(set(results.cells["fingerprint_torch"].dropna()) - {""}))
    specification = results.specification
    machine = f"Machine: {arguments.machine}. torch {versions}."
    heading = [specification.question, machine, described(results.content), specification.answer]
    tables = "\n".join([files["tables.md"], *(_against(results, arm) for arm in arguments.against), files["costs.md"]])
    text = "\n\n".join(part for part in (*heading, tables) if part)
    (RESULTS / f"{arguments.name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
