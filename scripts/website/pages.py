"""Pages of the site that are made from the code and from files outside ``docs``; run by mkdocs-gen-files."""

from __future__ import annotations

from pathlib import Path

import mkdocs_gen_files
import typer
from typer.cli import get_docs_for_click

from dataset_conversion.catalogue import KnownSource, Source
from dataset_conversion.registry import CONVERTERS
from nnunet_ext.cli.app import app
from nnunet_ext.cli.options import OPTION_HEAD, option_rows
from nnunet_ext.core.markdown import table
from nnunet_ext.plugin.registry import TRAINERS

ROOT = Path(__file__).resolve().parents[2]
API = {
    "Labels": ["nnunet_ext.labels"],
    "Losses": [f"nnunet_ext.losses.{name}" for name in ("adversarial", "boundary", "dual", "multi_level", "partial")]
    + ["nnunet_ext.losses.prior", "nnunet_ext.losses.uncertain_points"],
    "Networks": [f"nnunet_ext.networks.{name}" for name in ("cascade", "coarse_to_fine", "dual", "multi_level")]
    + [f"nnunet_ext.networks.{name}" for name in ("patch_discriminator", "resnet18", "vgg19_unet")],
    "Trainers": [f"nnunet_ext.trainers.{name}" for name in ("refined_gan", "multi_level", "coarse_to_fine")]
    + [f"nnunet_ext.trainers.{name}" for name in ("sdnet", "cascaded", "pann")],
    "Training": [f"nnunet_ext.training.{name}" for name in ("base", "auxiliary", "teacher", "options", "schedules")],
    "Evaluation": [f"nnunet_ext.evaluation.{name}" for name in ("case", "folders", "metrics", "conventions", "scores")]
    + [f"nnunet_ext.evaluation.{name}" for name in ("surface", "statistics", "targets")],
    "Conversion": ["dataset_conversion.registry", "dataset_conversion.catalogue", "dataset_conversion.engine"],
}


def write(name: str, text: str) -> None:
    """Write a page of the site."""
    with mkdocs_gen_files.open(name, "w") as page:
        page.write(text)


def options_page() -> str:
    """Every option of every trainer."""
    parts = [
        "# Options\n\nMade from the code. [How to set them](../how-to.md#options-without-a-class) without writing a "
        "class; `nnunet-ext options TRAINER` prints the same.\n"
    ]
    for name in TRAINERS:
        rows = [(f"`{option}`", f"`{default}`", *rest) for option, default, *rest in option_rows(name)]
        parts.append(f"\n## {name}\n\n{table(OPTION_HEAD, rows)}")
    return "".join(parts)


def examples_page() -> str:
    """Every file of ``examples``."""
    parts = ["# Examples\n\nFiles of the folder `examples`, which the tests run.\n"]
    for file in sorted((ROOT / "examples").glob("*.py")):
        parts.append(f"\n## {file.stem.replace('_', ' ')}\n\n```python\n{file.read_text(encoding='utf-8')}```\n")
    return "".join(parts)


def sources_page() -> str:
    """Facts about the public datasets."""
    parts = [
        "# Datasets at their sources\n\nMade from the converters. What is inside, traps and splits: "
        "[Datasets](../datasets.md).\n"
    ]
    for converter in CONVERTERS:
        about = converter.about
        if not isinstance(about, Source):
            continue
        facts = [("Get it", f"{about.url} ({about.size})"), ("Terms", about.licence), ("Contents", about.contents)]
        facts.append(("SOURCE", about.point_at))
        if isinstance(about, KnownSource):
            dataset = about.dataset
            facts.append(("Dataset", f"`Dataset{dataset.number:03d}_{dataset.name}`"))
            facts.append(("Labels", ", ".join(f"{value} {label}" for label, value in dataset.labels.items())))
        command = f"```bash\nnnunet-ext convert {converter.command} SOURCE\n```\n"
        parts.append(f"\n## {about.title}\n\n{command}\n{table(('', ''), facts)}")
    return "".join(parts)


def commands_page() -> str:
    """Every command with its options, from typer."""
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name="nnunet-ext")
    return get_docs_for_click(obj=command, ctx=context, name="nnunet-ext", title="Commands")


def main() -> None:
    """Write all pages that are made."""
    for source, page in mkdocs_gen_files.config["extra"]["copied"].items():
        write(page, (ROOT / source).read_text(encoding="utf-8"))
    results = sorted((ROOT / "benchmarks" / "results").iterdir())
    tables = []
    for file in results:
        name = f"results/{file.name}"
        if file.suffix == ".md":
            text = file.read_text(encoding="utf-8")
            title = file.stem.replace("_", " ")
            write(name, text if text.startswith("# ") else f"# {title}\n\n{text}")
            tables.append(f"- [{title}]({file.name})")
        else:
            with mkdocs_gen_files.open(name, "wb") as copy:
                copy.write(file.read_bytes())
    write("results/index.md", "# Results\n\nWhat was measured, with seed, budget and machine.\n\n" + "\n".join(tables))
    for name in ("LICENSE", "CITATION.cff"):  # as links.AS_THEY_ARE
        write(name, (ROOT / name).read_text(encoding="utf-8"))
    write("examples.md", examples_page())
    write("reference/options.md", options_page())
    write("reference/sources.md", sources_page())
    write("reference/commands.md", commands_page())
    for title, modules in API.items():
        blocks = "\n".join(f"::: {module}\n" for module in modules)
        write(f"reference/api/{title.lower()}.md", f"# {title}\n\n{blocks}")


main()
