"""The figure of the front page: image, stock nnU-Net, one of our trainers and the truth, in a typical unseen case.

The case is chosen by number, not by eye: that of the median difference of the mean Dice over classes, among all
validation cases that both models have; of an even number, the lower of the two in the middle. The slice is that of
``nnunet-ext preview``.

    python benchmarks/front_figure.py RAW_DATASET STOCK_MODEL OUR_MODEL docs/figures/chaos_t2.png
"""

from __future__ import annotations

import argparse
import functools
import io
import json
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from nnunet_ext.core.figure_style import figure_style
from nnunet_ext.core.masks import bounding_box, join_boxes
from nnunet_ext.evaluation.images import channel_names, grey_values, read_channels
from nnunet_ext.evaluation.preview import Files, class_colours, shown_slice, training_files
from nnunet_ext.evaluation.reading import find_readers, read_label_map
from nnunet_ext.evaluation.slices import view_of
from nnunet_ext.evaluation.targets import label_scheme, read_dataset_json

WIDTH, DPI = 9.6, 110  # inches, pixels an inch
MARGIN = 40  # mm around the labels


def mean_dice(model: Path) -> dict[str, float]:
    """Mean Dice over classes of each validation case of a model, from nnU-Net's own summaries."""
    found = {}
    for summary in sorted(model.glob("fold_*/validation/summary.json")):
        for case in json.loads(summary.read_text(encoding="utf-8"))["metric_per_case"]:
            name = Path(case["prediction_file"]).name
            found[name] = float(np.nanmean([scores["Dice"] for scores in case["metrics"].values()]))
    return found


def typical(stock: dict[str, float], ours: dict[str, float]) -> tuple[str, int]:
    """File name of the case with the median difference, and the number of cases."""
    common = sorted(stock.keys() & ours.keys(), key=lambda name: (ours[name] - stock[name], name))
    if not common:
        raise SystemExit("The two models have no validation case in common.")
    return common[(len(common) - 1) // 2], len(common)


def draw(raw: Path, files: Files, columns: dict[str, Path | None]) -> Image.Image:
    """Image, and label maps over it, side by side.

    Args:
        raw: the raw dataset.
        files: of the case.
        columns: label map of each column by its title; None is the image alone.
    """
    dataset_json = read_dataset_json(raw / "dataset.json")
    scheme, readers = label_scheme(dataset_json), find_readers(dataset_json)
    truth = read_label_map(files.label, readers)
    index = shown_slice([np.isin(truth.array, target.members).sum(axis=(1, 2)) for target in scheme.targets])
    view = view_of(truth)
    channel = next(iter(channel_names(dataset_json)), "")
    spacing = view.spacing(truth.spacing)
    planes = {title: view.turned(read_label_map(file, readers).array[index]) for title, file in columns.items() if file}
    box = functools.reduce(join_boxes, [b for b in map(bounding_box, planes.values()) if b])
    cut = tuple(
        slice(max(s.start - int(MARGIN / step), 0), s.stop + int(MARGIN / step))
        for s, step in zip(box, spacing, strict=True)
    )
    image = view.turned(grey_values(read_channels(files.images, readers)[0, index], channel))[cut]
    height, width = (n * step for n, step in zip(image.shape, spacing, strict=True))
    colours = class_colours(scheme)
    panel = WIDTH / len(columns)
    with figure_style():
        figure = Figure(figsize=(WIDTH, panel * height / width + 0.68), dpi=DPI, layout="compressed")
        figure.get_layout_engine().set(w_pad=0.02, h_pad=0.05, wspace=0, hspace=0)
        for axes, title in zip(figure.subplots(1, len(columns)), columns, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0), interpolation="bilinear")
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
            if title not in planes:
                continue
            labels = planes[title][cut]
            x = (np.arange(labels.shape[1]) + 0.5) * width / labels.shape[1]
            y = (np.arange(labels.shape[0]) + 0.5) * height / labels.shape[0]
            for target in scheme.targets:
                mask, colour = np.isin(labels, target.members), colours[target.name]
                if mask.any():
                    layer = np.zeros((*mask.shape, 4))
                    layer[mask] = to_rgba(colour, 0.35)
                    axes.imshow(layer, extent=(0, width, height, 0), interpolation="nearest")
                    axes.contour(x, y, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.2)
        handles = [Patch(color=colour, label=name) for name, colour in colours.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)
        buffer = io.BytesIO()
        FigureCanvasAgg(figure).print_png(buffer)
    return Image.open(buffer).convert("RGB")


def main() -> None:
    """Choose the case and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("raw", type=Path, help="the raw dataset")
    parser.add_argument("stock", type=Path, help="folder of the stock model, with its folds")
    parser.add_argument("ours", type=Path, help="folder of our model, with its folds")
    parser.add_argument("output", type=Path, help="PNG file")
    arguments = parser.parse_args()
    scores = [mean_dice(model) for model in (arguments.stock, arguments.ours)]
    name, number = typical(*scores)
    dataset_json = read_dataset_json(arguments.raw / "dataset.json")
    case = name.removesuffix(dataset_json["file_ending"])
    (files,) = (each for each in training_files(arguments.raw, dataset_json) if each.case == case)
    columns: dict[str, Path | None] = {"image": None}
    for model, own in zip((arguments.stock, arguments.ours), scores, strict=True):
        trainer = model.name.partition("__")[0].split("_")[0]
        (prediction,) = model.glob(f"fold_*/validation/{name}")
        columns[f"{trainer}, Dice {own[name]:.2f}"] = prediction
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    draw(arguments.raw, files, {**columns, "truth": files.label}).save(arguments.output, optimize=True)
    print(f"{case}: Dice {scores[0][name]:.3f} and {scores[1][name]:.3f}, the median difference of {number} cases")
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
