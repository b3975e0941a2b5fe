"""Write the report of a work folder."""

from __future__ import annotations

from pathlib import Path

from nnunet_ext.benchmark.report.collect import collect
from nnunet_ext.benchmark.report.page import PAGE, report_files
from nnunet_ext.core.files import make_folder, write_together


def write_report(work: Path, output: Path) -> Path:
    """Write the report of what a work folder holds so far; gives the path of the page.

    Args:
        work: Work folder of ``nnunet-ext benchmark run``.
        output: Folder for ``report.html``, tables and figures, made where needed. Figures of an earlier report that
            this one lacks are removed.

    Raises:
        UserError: The folder holds no benchmark, a file of it is damaged, cells must not be compared, or the output
            cannot be written.
    """
    files = report_files(collect(work))
    figures = output / "figures"
    make_folder(figures)
    write_together(output, files)
    for old in figures.glob("*.svg"):
        if f"figures/{old.name}" not in files:
            old.unlink()
    return output / PAGE
