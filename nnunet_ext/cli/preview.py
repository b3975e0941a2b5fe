"""``nnunet-ext preview``: one page of slices with label contours of a raw dataset."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from nnunet_ext.cli.evaluation import progress_bar
from nnunet_ext.core.environment import find_dataset, require_folder
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import write_together
from nnunet_ext.evaluation.preview import preview_page


def run_preview(dataset: str, output: Path | None, most: int, num_processes: int) -> None:
    """Write the page.

    Args:
        dataset: number or name of a dataset in ``nnUNet_raw``.
        output: file to write; default: ``preview_<name>.html`` here.
        most: number of cases at most.
        num_processes: that read and draw.

    Raises:
        UserError: there is no such dataset, it has no labelled cases, or, once the page is written, some cannot be
            shown.
    """
    raw = require_folder("nnUNet_raw")
    name = find_dataset(raw, dataset)
    file = output or Path(f"preview_{name}.html")
    if file.is_dir():
        raise UserError(f"{file} is a folder: give -o the name of a file.")
    console = Console()
    with progress_bar(console) as progress:
        task = progress.add_task("Drawing", total=None)
        page, pictures = preview_page(
            raw / name,
            most,
            num_processes,
            lambda done, total, case: progress.update(
                task, completed=done, total=total, description=escape(f"Drawing {case}")
            ),
        )
    write_together(file.parent, {file.name: page})
    console.print(Text(f"{len(pictures)} cases of {name}: {file}"), soft_wrap=True)
    problems = [picture.problem for picture in pictures if picture.problem]
    if problems:
        more = f"; and {len(problems) - 1} more, see {file}" if len(problems) > 1 else ""
        raise UserError(f"{len(problems)} of {len(pictures)} cases cannot be shown: {problems[0]}{more}")
