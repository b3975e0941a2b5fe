"""Keep the results of a benchmark in ``benchmarks/results``: every case as CSV, the tables of the report as Markdown.

    python benchmarks/keep_results.py WORK NAME --machine "two-core x86-64 CPU"

WORK is the work folder of ``nnunet-ext benchmark run``. Curves of all epochs go to NAME_curves.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.page import report_files

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="work folder of the benchmark")
    parser.add_argument("name", help="of the files")
    parser.add_argument("--machine", required=True, help="said in the result")
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
    heading = [specification.question, f"Machine: {arguments.machine}. torch {versions}.", specification.answer]
    text = "\n\n".join(part for part in (*heading, files["tables.md"] + "\n" + files["costs.md"]) if part)
    (RESULTS / f"{arguments.name}.md").write_text(text.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
