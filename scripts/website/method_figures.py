"""The figures of docs/methods, one of the idea of each method; all data are synthetic.

python scripts/website/method_figures.py [METHOD ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from figure_parts import (
    AMBER,
    BLUE,
    DIFFERENCE,
    DISCRIMINATOR,
    ORGANS,
    SPACING,
    TEAL,
    Page,
    Rect,
    abdomen,
    certain,
    coloured,
    hard,
    pretended_logits,
)
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import avg_pool2d

from nnunet_ext.core.figure_style import INK, MUTED, figure_style
from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses.dual import difference_region, sharpen
from nnunet_ext.losses.uncertain_points import IMPORTANCE, OVERSAMPLING, draw_points, least_certain
from nnunet_ext.networks.cascade import normalise
from nnunet_ext.trainers.sdnet import SDNetOptions

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "figures"
TEMPERATURE = SDNetOptions().temperature
SHAPE = 112 / 144  # height of a slice by its width


def _with_island(labels: NDArray[np.uint8], number: int, place: tuple[int, int], radius: float) -> NDArray[np.uint8]:
    """Labels with a round island of an organ where there is none."""
    rows, columns = np.indices(labels.shape)
    return np.where(np.hypot(rows - place[0], columns - place[1]) < radius, number, labels).astype(np.uint8)


def _points(logits: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points that the pixel term draws, (N, 2) from -1 to 1 down and across: the uncertain ones, and the others."""
    generator = torch.Generator().manual_seed(0)
    uncertain = round(IMPORTANCE * number)
    candidates, others = (
        draw_points(1, drawn, 2, logits.device, generator) for drawn in (OVERSAMPLING * number, number - uncertain)
    )
    return candidates[0, least_certain(logits, candidates, uncertain)[0]], others[0]


def multi_level() -> Image.Image:
    """The three terms of the loss."""
    shown = abdomen()
    liver = list(ORGANS).index("liver") + 1
    logits = pretended_logits(_with_island(shown.labels, liver, (15, 76), 5), seed=4)
    page = Page(304)
    image = page.picture(Rect(14, 26, 116, 116 * SHAPE), shown.image, "image")
    network = page.network(Rect(14, 134, 116, 54), "U-Net")
    found = page.segmentation(Rect(14, 206, 116, 116 * SHAPE), shown.image, hard(logits))
    page.arrow(image.bottom, network.top)
    page.arrow(network.bottom, found.top)

    frames = [Rect(160 + 202 * i, 34, 184, 228) for i in range(3)]
    panels = [Rect(frame.x + 8, frame.y + 30, 168, 168 * SHAPE) for frame in frames]
    words = (
        ("region term", "Dice + cross-entropy:\noverlap with the truth", "from the beginning"),
        ("boundary term", "probability times signed\ndistance to the truth", "rises over the first quarter"),
        ("pixel term", "cross-entropy where the\nnetwork is least sure", "from 60 % of the run on"),
    )
    page.arrow(network.right, (145, network.right[1]), (145, 18), (frames[2].top[0], 18), training=True, head=False)
    for frame, panel, (title, meaning, when) in zip(frames, panels, words, strict=True):
        page.arrow((frame.top[0], 18), frame.top, training=True)
        page.frame(frame, AMBER, training=True)
        page.text((frame.top[0], frame.y + 16), title, 10, weight="bold")
        page.text((frame.top[0], panel.y + panel.h + 22), meaning)
        page.text((frame.top[0], panel.y + panel.h + 51), when, 8, MUTED)
    for frame in frames[1:]:
        page.text((frame.x - 9, frame.left[1]), "+", 12)

    page.picture(panels[0], shown.image)
    for number, colour in enumerate(ORGANS.values(), start=1):
        page.outline(panels[0], hard(logits) == number, colour, 0, fill=0.6)
        page.outline(panels[0], shown.labels == number)
    near = (slice(4, 81), slice(0, 99))
    distance = signed_distance_maps(shown.labels[None], (SPACING, SPACING), (liver,), relative=True)[0].float()
    page.picture(panels[1], distance.numpy()[near], cmap="RdBu_r", limits=(-1.5, 1.5))
    page.outline(panels[1], (shown.labels == liver)[near], INK, 1.6)
    page.outline(panels[1], (hard(logits) == liver)[near], INK, 1.3, style="--")
    coarse = avg_pool2d(logits, 4)
    page.picture(panels[2], torch.softmax(logits, 1).amax(1)[0].numpy(), limits=(0, 1.05))
    for points, colour in zip(_points(coarse, 400), (AMBER, BLUE), strict=True):
        down, across = (points.T.numpy() + 1) / 2
        page.axes.scatter(panels[2].x + across * panels[2].w, panels[2].y + down * panels[2].h, 4, colour, lw=0)
    page.legend(160, 283)
    return page.drawn()


def adversarial() -> Image.Image:
    """Two outputs of deep supervision, each against a discriminator."""
    shown = abdomen()
    fine = pretended_logits(shown.labels, seed=4)
    outputs, truths = (fine, avg_pool2d(fine, 2)), (shown.labels, shown.labels[::2, ::2])
    page = Page(318)
    image = page.picture(Rect(14, 74, 116, 116 * SHAPE), shown.image, "image")
    network = page.network(Rect(154, 50, 104, 190), "U-Net")
    page.arrow(image.right, (network.x, image.right[1]))
    for i, (middle, width, trainer) in enumerate(((76, 120, ""), (222, 60, "RefinedGAN alone")), start=1):
        output, truth = (Rect(x - width / 2, middle - width * SHAPE / 2, width, width * SHAPE) for x in (348, 544))
        page.picture(output, coloured(outputs[i - 1]), ("output 1: segmentation", "output 2, half resolution")[i - 1])
        page.picture(truth, coloured(certain(truths[i - 1])), "truth")
        page.arrow((network.x + network.w, middle), output.left, training=i > 1)
        basic = page.box(Rect(424, middle - 17, 44, 34), "Dice\n+ CE")
        page.arrow(output.right, basic.left, training=True)
        page.arrow(truth.left, basic.right, training=True)
        words = f"discriminator {i}:\ntrue or predicted?"
        judge = page.network(Rect(620, middle - 44, 130, 88), words, True, BLUE, DISCRIMINATOR)
        page.text(judge.at(0.5, -0.1), trainer, 8, MUTED)
        page.arrow(truth.right, judge.left, training=True)
        under = middle + 62
        page.arrow(output.bottom, (output.bottom[0], under), (judge.bottom[0], under), judge.bottom, training=True)
    page.legend(14, 300)
    return page.drawn()


def sdnet() -> Image.Image:
    """Two networks on both halves of a batch."""
    labelled, unlabelled = abdomen(3), abdomen(5)
    page = Page(384)
    width, height = 100, 100 * SHAPE
    joint = (134, 188)
    for y, each, title in ((74, labelled, "labelled image"), (224, unlabelled, "unlabelled image")):
        image = page.picture(Rect(14, y, width, height), each.image, title)
        page.arrow(image.right, (joint[0], image.right[1]), joint, training=True, head=False)
    mean = page.box(Rect(156, 171, 108, 34), "mean of logits:\nprediction", TEAL, training=False)
    for y, words, edge in ((56, "network A", "bottom"), (244, "network B\n(residual)", "top")):
        network = page.network(Rect(154, y, 112, 76), words)
        page.arrow(joint, (joint[0], network.left[1]), network.left)
        page.arrow(getattr(network, edge), getattr(mean, "top" if edge == "bottom" else "bottom"))

    frames = [Rect(290, 14, 232, 334), Rect(534, 14, 216, 334)]
    titles = ("labelled half of a batch", "unlabelled half")
    notes = ("differences: second half of the run", "second half of the run")
    for frame, title, note in zip(frames, titles, notes, strict=True):
        page.frame(frame, AMBER, training=True)
        page.text((frame.top[0], frame.y + 15), title, weight="bold")
        page.text((frame.top[0], frame.y + frame.h - 13), note, 8, MUTED)
    columns = [[Rect(frame.x + 10, 43 + 95 * i, width, height) for i in range(3)] for frame in frames]

    logits = [pretended_logits(labelled.labels, seed) for seed in (4, 6)]
    first, between, second = columns[0]
    page.picture(first, coloured(logits[0]))
    page.picture(between, labelled.image)
    page.outline(between, difference_region(*logits)[0, 0].numpy(), DIFFERENCE, 0, fill=0.9)
    page.picture(second, coloured(logits[1]))
    page.arrow(first.bottom, between.top, training=True)
    page.arrow(second.top, between.bottom, training=True)
    for rect, words in zip(
        columns[0],
        ("Dice + CE\nto the label", "squared error\nwhere A and B\ndiffer", "Dice + CE\nto the label"),
        strict=True,
    ):
        term = page.box(Rect(rect.x + width + 13, rect.left[1] - 25, 101, 50), words)
        page.arrow(rect.right, term.left, training=True)

    teacher, student = (pretended_logits(unlabelled.labels, seed, blur=4) for seed in (4, 6))
    sharpened = torch.log(sharpen(teacher, TEMPERATURE) + 1e-9)
    words = (
        "A teaches: it is\nbetter on the\nlabelled half",
        "sharpened:\npseudo-label",
        "B learns:\nsquared error",
    )
    for rect, each, meaning in zip(columns[1], (teacher, sharpened, student), words, strict=True):
        page.picture(rect, coloured(each))
        page.text((rect.x + width + 8, rect.left[1]), meaning, across="left", down="center")
    page.arrow(columns[1][0].bottom, columns[1][1].top, training=True)
    page.arrow(columns[1][1].bottom, columns[1][2].top, training=True)
    for column in columns:
        for name, rect in zip("AB", (column[0], column[2]), strict=True):
            page.text(rect.at(0.09, 0.14), name, colour="white", weight="bold")
    page.legend(14, 366)
    return page.drawn()


def cascaded() -> Image.Image:
    """Two networks in cascade, and the discriminator."""
    shown = abdomen()
    first, second = (pretended_logits(shown.labels, 4, moved, blur) for moved, blur in ((5, 4), (2, 1.5)))
    maps = normalise(first)[0].numpy()
    page = Page(330)
    width, height, middle = 112, 112 * SHAPE, 98
    image = page.picture(Rect(14, middle - height / 2, width, height), shown.image, "image")
    one, two = (
        page.network(Rect(x, middle - 38, 94, 76), words) for x, words in ((160, "network 1"), (448, "network 2"))
    )
    page.arrow(image.right, one.left)
    page.arrow((143, middle), (143, 26), (two.top[0], 26), two.top)
    page.text((319, 15), "image and maps together: auto-context")
    for i, number in enumerate((0, 1, 2, 5)):
        place = Rect(286 + 68 * (i % 2), middle - 52 + 54 * (i // 2), 64, 64 * SHAPE)
        page.picture(place, maps[number], limits=(-2, 3.5))
    page.text((352, middle + 64), "normalised maps", 9)
    page.arrow(one.right, (284, middle))
    page.arrow((420, middle), two.left)
    back = middle + 84
    page.arrow(two.bottom, (two.bottom[0], back), (one.bottom[0], back), one.bottom, training=True)
    page.text((352, back + 14), "one gradient through both networks", colour=AMBER)

    output = page.segmentation(Rect(634, middle - height / 2, width, height), shown.image, hard(second), "segmentation")
    page.arrow(two.right, output.left)
    truth = page.segmentation(Rect(634, 212, width, height), shown.image, shown.labels)
    page.text((truth.bottom[0], 312), "truth")
    basic = page.box(Rect(652, 162, 76, 28), "Dice + CE")
    page.arrow(output.bottom, basic.top, training=True)
    page.arrow(truth.top, basic.bottom, training=True)
    judge = page.network(Rect(430, 212, 130, 88), "discriminator:\ntrue or predicted?", True, BLUE, DISCRIMINATOR)
    page.arrow((600, middle), (600, 234), (560, 234), training=True)
    page.arrow((truth.x, 276), (560, 276), training=True)
    page.arrow(image.bottom, (image.bottom[0], judge.left[1]), judge.left, training=True)
    page.text((250, judge.left[1] + 14), "trainers with GAN alone; it sees the image too", colour=MUTED, size=8)
    page.legend(14, 312)
    return page.drawn()


FIGURES: dict[str, Callable[[], Image.Image]] = {
    "adversarial": adversarial,
    "multi_level": multi_level,
    "sdnet": sdnet,
    "cascaded": cascaded,
}


def draw(method: str) -> Image.Image:
    """The figure of a method."""
    with figure_style():
        return FIGURES[method]()


def main() -> None:
    """Draw and write figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", help=f"of {', '.join(FIGURES)}; default: all")
    for method in parser.parse_args().methods or FIGURES:
        file = FOLDER / f"{method}.png"
        draw(method).save(file, optimize=True)
        print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
