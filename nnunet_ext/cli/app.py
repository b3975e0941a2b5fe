"""The ``nnunet-ext`` command: one short function per command, each importing what it needs when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dataset_conversion.cli import app as convert_app
from nnunet_ext import __version__
from nnunet_ext.cli.benchmark import app as benchmark_app

_ORDER = (
    "convert",
    "preview",
    "preprocess-unlabelled",
    "views",
    "trainers",
    "options",
    "cost",
    "plan-for",
    "evaluate",
    "compare",
    "vote",
    "benchmark",
    "demo",
    "doctor",
    "path",
)


class _InOrder(TyperGroup):
    """Commands in the order in which a user meets them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    cls=_InOrder,
    name="nnunet-ext",
    help="Datasets, trainers and evaluation that extend nnU-Net v2. "
    "Train and predict with the stock nnUNetv2_* commands.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(convert_app, name="convert", rich_help_panel="Data")
app.add_typer(benchmark_app, name="benchmark", rich_help_panel="Evaluate")

DEMO_TRAINER = "nnUNetTrainerRefinedGAN_18epochs_120iters"


def _print_version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel="Evaluate")
def evaluate(
    reference_dir: Annotated[Path, typer.Argument(help="Folder of reference label maps, such as labelsTr.")],
    prediction_dir: Annotated[
        Path,
        typer.Argument(help="Folder of predictions, fold_X/validation, or a trained-model folder (all its folds)."),
    ],
    dataset_json: Annotated[
        Path | None, typer.Option("-djfile", help="dataset.json; found beside the folders by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", help="Default: folder evaluation in PREDICTION_DIR.")] = None,
    preset: Annotated[str, typer.Option(help="Conventions: papers, chaos, sliver07 or lits.")] = "papers",
    processes: Annotated[
        int | None, typer.Option("-np", min=1, metavar="N", help="Processes; default: cores, at most 8.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", metavar="", help="Score absent or unusable predictions as missed.")
    ] = False,
    only_predicted: Annotated[
        bool, typer.Option("--only-predicted", metavar="", help="Pass over references without a prediction.")
    ] = False,
    match: Annotated[
        str,
        typer.Option(
            help="Whether HEADER or ARRAY shape tells that both lie on one grid; array for references whose header is "
            "wrong, such as those published with LiTS and NIH Pancreas-CT."
        ),
    ] = "header",
    splits: Annotated[
        Path | None, typer.Option(help="splits_final.json; tells which cases the folds should hold.")
    ] = None,
    border: Annotated[int | None, typer.Option(help="Border neighbourhood: 6, 18 or 26.")] = None,
    edge: Annotated[
        bool | None, typer.Option("--edge/--no-edge", metavar="", help="Whether the image edge is surface.")
    ] = None,
    averaging: Annotated[str | None, typer.Option(help="ASSD and RMSD: pooled or mean_of_sides.")] = None,
    percentile: Annotated[str | None, typer.Option(help="HD95: max_of_sides or pooled.")] = None,
    absent: Annotated[
        str | None, typer.Option(help="Distance of a missed class: diagonal, infinity or a number of mm.")
    ] = None,
    nsd: Annotated[
        list[float] | None, typer.Option(metavar="MM", help="Surface Dice tolerance in mm; may be repeated.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images for the pictures; default: images* beside labels*, or of the raw dataset."),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, metavar="N", help="Number of worst cases pictured.")] = 8,
    report: Annotated[bool, typer.Option("--report/--no-report", metavar="", help="Write report.html.")] = True,
) -> None:
    """Evaluate predictions: summary.json, metrics.csv, report.html and a table.

    Example: nnunet-ext evaluate nnUNet_raw/Dataset504_CHAOS_CT/labelsTr predictions --preset chaos
    """
    from nnunet_ext.cli.evaluation import default_processes, parse_matching, run_evaluate
    from nnunet_ext.evaluation.conventions import conventions_from, parse_absent_distance

    conventions = conventions_from(
        preset,
        border_neighbourhood=border,
        edge_is_surface=edge,
        averaging=averaging,
        percentile_rule=percentile,
        absent_distance=parse_absent_distance(absent),
        nsd_tolerances_mm=tuple(nsd) if nsd else None,
    )
    run_evaluate(
        reference_dir,
        prediction_dir,
        dataset_json,
        output,
        conventions,
        num_processes=processes or default_processes(),
        allow_missing=allow_missing,
        only_predicted=only_predicted,
        match=parse_matching(match),
        splits_file=splits,
        images_dir=images,
        n_worst=worst,
        write_report=report,
    )


@app.command(rich_help_panel="Evaluate")
def compare(
    results: Annotated[list[str], typer.Argument(metavar="NAME=RESULT_DIR...", help="Results of evaluate.")],
    output: Annotated[Path, typer.Option("-o", help="Folder for tables and report.")] = Path("comparison"),
    metrics: Annotated[str, typer.Option(help="Metrics to test, separated by commas.")] = "Dice,ASSD,HD95",
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Every pair, not only against the first.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Compare on the cases that all models share.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Compare models case by case: differences, intervals, tests, LaTeX and Markdown tables.

    Example: nnunet-ext compare stock=stock/evaluation refined=refined/evaluation -o comparison
    """
    from nnunet_ext.cli.evaluation import named_folders, run_compare

    run_compare(named_folders(results), output, metrics.split(","), all_pairs=all_pairs, common=common, seed=seed)


@app.command(rich_help_panel="Data")
def preview(
    dataset: Annotated[str, typer.Option("-d", help="Number or name of the dataset.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option("-o", metavar="FILE", help="Default: preview_DATASET.html in this folder.")
    ] = None,
    most: Annotated[
        int, typer.Option("-n", min=1, metavar="N", help="Cases at most, chosen evenly from first to last.")
    ] = 200,
    processes: Annotated[
        int | None, typer.Option("-np", min=1, metavar="N", help="Processes; default: cores, at most 8.")
    ] = None,
) -> None:
    """Show a raw dataset on one page: of each case the slice with most foreground, with contours of its labels.

    Look at the data before you train. Cases that cannot be read are named, with exit code 1.

    Example: nnunet-ext preview -d 4
    """
    from nnunet_ext.cli.evaluation import default_processes
    from nnunet_ext.cli.preview import run_preview

    run_preview(dataset, output, most, processes or default_processes())


@app.command("preprocess-unlabelled", rich_help_panel="Data")
def preprocess_unlabelled(
    dataset: Annotated[str, typer.Option("-d", help="Number or name of the dataset.", show_default=False)],
    configuration: Annotated[
        list[str] | None, typer.Option("-c", help="Of the plans; may be repeated. Default: all that are preprocessed.")
    ] = None,
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
    processes: Annotated[
        int | None, typer.Option("-np", min=1, help="Processes; default: as nnUNetv2_preprocess, at most the cores.")
    ] = None,
) -> None:
    """Preprocess the images in imagesUn of a raw dataset, which have no labels, for nnUNetTrainerSDNet.

    Run nnUNetv2_plan_and_preprocess before. Run again to continue after a stop, or when images came or went.
    Refused are copies of training images, and images of another dimension, orientation or number of channels than
    these have, or with voxels more than four times larger or smaller.

    Example: nnunet-ext preprocess-unlabelled -d 503 -c 3d_fullres
    """
    from nnunet_ext.cli.unlabelled import run_preprocess

    run_preprocess(dataset, configuration or (), plans, processes)


@app.command(rich_help_panel="Data")
def views(
    dataset: Annotated[str, typer.Option("-d", help="Number or name of the dataset.", show_default=False)],
    plans: Annotated[str, typer.Option("-p", help="Plans of the first view.")] = "nnUNetPlans",
    gpu_memory: Annotated[
        float | None, typer.Option("-gpu_memory_target", metavar="GB", help="Of 2d; default: the planner's own.")
    ] = None,
) -> None:
    """Write two more plans of a dataset, whose slices lie the other ways, for three 2D models.

    Preprocess, train and predict with each of the three plans, then fuse with nnunet-ext vote. 3D configurations are
    turned alike; what was changed by hand in the 2d configuration is planned anew.

    Example: nnunet-ext views -d 503
    """
    from nnunet_ext.cli.views import run_views

    run_views(dataset, plans, gpu_memory)


@app.command(rich_help_panel="Evaluate")
def vote(
    predictions: Annotated[list[Path], typer.Argument(metavar="P1 P2...", help="Folders of predictions.")],
    output: Annotated[Path, typer.Option("-o", help="Folder for the result.", show_default=False)],
) -> None:
    """Fuse predictions by majority vote.

    Among labels with as many votes, that of the highest summed probability wins where all folders hold probabilities
    (nnUNetv2_predict --save_probabilities, no regions), else the one with more votes among the neighbours.

    Example: nnunet-ext vote axial coronal sagittal -o fused
    """
    from nnunet_ext.cli.views import run_vote

    run_vote(predictions, output)


@app.command(rich_help_panel="Train")
def trainers(
    name: Annotated[str | None, typer.Argument(help="One of them, with all that is known of it.")] = None,
) -> None:
    """List the trainers by paper: what each does, costs and gained."""
    from nnunet_ext.cli import trainers as command

    if name is None:
        command.show_all()
    else:
        command.show(name)


@app.command(rich_help_panel="Train")
def options(
    trainer: Annotated[
        str | None, typer.Argument(help="Trainer; without it, all of them are listed.", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Write plans with this value; may be repeated."),
    ] = None,
    dataset: Annotated[str | None, typer.Option("-d", help="Number or name of the dataset.")] = None,
    plans: Annotated[str, typer.Option("-p", help="Plans to start from.")] = "nnUNetPlans",
    output: Annotated[str | None, typer.Option("-o", metavar="NAME", help="Name of the new plans.")] = None,
) -> None:
    """List the options of the trainers, or write plans that set some of them.

    Train with the plans so written, nnUNetv2_train ... -p NAME; --c and prediction then know the options too.

    Example: nnunet-ext options nnUNetTrainerMLL --set boundary_weight=0.1 -d 4 -o nnUNetPlansMild
    """
    from nnunet_ext.cli import options as command

    if not settings:
        if trainer is None:
            command.show_all()
        else:
            command.show(trainer)
        return
    if trainer is None or dataset is None or output is None:
        raise typer.BadParameter("--set needs a trainer, -d and -o.")
    file = command.write_plans(trainer, settings, dataset, plans, output)
    typer.echo(f"Wrote {file}. Train with: nnUNetv2_train {dataset} CONFIGURATION FOLD -tr {trainer} -p {output}")


@app.command(rich_help_panel="Train")
def cost(
    dataset: Annotated[str, typer.Option("-d", help="Number or name of the dataset.", show_default=False)],
    trainers: Annotated[list[str], typer.Option("-tr", help="Trainer; may be repeated.", show_default=False)],
    configuration: Annotated[str, typer.Option("-c", help="Of the plans.")] = "3d_fullres",
    plans: Annotated[str, typer.Option("-p", help="Plans.")] = "nnUNetPlans",
) -> None:
    """Say what a training step needs: peak memory, FLOPs, parameters, and their ratios to stock nnU-Net.

    The step is simulated as on CUDA; it needs neither a GPU nor preprocessed data.

    Example: nnunet-ext cost -d 4 -c 3d_fullres -tr nnUNetTrainerSDNet -tr nnUNetTrainerMLL
    """
    from nnunet_ext.cli.cost import run_cost

    run_cost(dataset, configuration, plans, trainers)


@app.command("plan-for", rich_help_panel="Train")
def plan_for(
    trainer: Annotated[str, typer.Argument(help="Trainer.", show_default=False)],
    dataset: Annotated[str, typer.Option("-d", help="Number or name of the dataset.", show_default=False)],
    output: Annotated[str, typer.Option("-o", metavar="NAME", help="Name of the new plans.", show_default=False)],
    plans: Annotated[str, typer.Option("-p", help="Plans to start from.")] = "nnUNetPlans",
    gpu_memory: Annotated[
        float | None,
        typer.Option("--gpu-memory", metavar="GB", help="Target of the planner; default: its own.", min=1),
    ] = None,
) -> None:
    """Write plans whose patches and batches fit a trainer, by nnU-Net's own rules and the trainer's memory.

    Spacing, normalisation and preprocessed data stay; patch, batch and the depth of the network, which follows the
    patch, are planned anew, also where they were changed by hand.

    Example: nnunet-ext plan-for nnUNetTrainerSDNet -d 4 -o nnUNetPlansSDNet
    """
    from nnunet_ext.cli.cost import run_plan_for

    run_plan_for(trainer, dataset, plans, output, gpu_memory)


@app.command(rich_help_panel="Help")
def path() -> None:
    """Print the folder for nnU-Net's variable nnUNet_extTrainer, for where the start-up hook does not run.

    Example: export nnUNet_extTrainer=$(nnunet-ext path)
    """
    from nnunet_ext.plugin.startup import plugin_folder

    typer.echo(plugin_folder())


@app.command(rich_help_panel="Help")
def doctor() -> None:
    """Check versions, device, folders and trainers, and say what to fix; exit code 1 if anything is."""
    from rich.console import Console

    from nnunet_ext.cli.doctor import examine

    console = Console(soft_wrap=True)
    all_fine = True
    for finding in examine():
        all_fine &= finding.is_fine
        mark = "[green]ok  [/green]" if finding.is_fine else "[red]fix [/red]"
        console.print(f"{mark} [bold]{finding.subject:<21}[/bold]", end=" ")
        console.print(finding.message, markup=False, highlight=False)
    if not all_fine:
        raise typer.Exit(1)


@app.command(rich_help_panel="Help")
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="A Decathlon task, e.g. Task04_Hippocampus; without it, a synthetic abdomen.", show_default=False
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for everything that is made.")] = Path("demo"),
    trainer: Annotated[str, typer.Option("-tr", help="Trainer, with its run length.")] = DEMO_TRAINER,
) -> None:
    """Run the whole of nnU-Net once, small: convert, look, plan, train, predict, evaluate, show.

    The commands are shown as they run, for you to use on your own data.
    """
    from nnunet_ext.cli.demo import run_demo

    run_demo(folder, output, trainer)
