"""Figures of the methods that train one network."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import avg_pool2d

from figures.abdomen import HEIGHT, ORGANS, SPACING, abdomen, certain, coloured, hard, pretended_logits
from figures.page import AMBER, BLUE, DISCRIMINATOR, TEAL, Page, Rect
from nnunet_ext.core.figure_style import GRID, INK, MUTED
from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses.partial import complete_target, pseudo_labels
from nnunet_ext.losses.prior import mean_prediction
from nnunet_ext.losses.uncertain_points import IMPORTANCE, OVERSAMPLING, draw_points, least_certain
from nnunet_ext.phantom.anatomy import make_phantom


def adversarial() -> Page:
    """Two outputs of deep supervision, each against a discriminator."""
    shown = abdomen()
    fine = pretended_logits(shown.labels, seed=4)
    outputs, truths = (fine, avg_pool2d(fine, 2)), (shown.labels, shown.labels[::2, ::2])
    page = Page(318)
    image = page.picture(Rect(14, 74, 116, 116 * HEIGHT), shown.image, "image")
    network = page.network(Rect(154, 50, 104, 190), "U-Net")
    page.arrow(image.right, (network.x, image.right[1]))
    for i, (middle, width, trainer) in enumerate(((76, 120, ""), (222, 60, "RefinedGAN alone")), start=1):
        output, truth = (Rect(x - width / 2, middle - width * HEIGHT / 2, width, width * HEIGHT) for x in (348, 544))
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
    return page


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


def multi_level() -> Page:
    """The three terms of the loss."""
    shown = abdomen()
    liver = list(ORGANS).index("liver") + 1
    logits = pretended_logits(_with_island(shown.labels, liver, (15, 76), 5), seed=4)
    page = Page(314)
    image = page.picture(Rect(14, 26, 116, 116 * HEIGHT), shown.image, "image")
    network = page.network(Rect(14, 134, 116, 54), "U-Net")
    found = page.segmentation(Rect(14, 206, 116, 116 * HEIGHT), shown.image, hard(logits))
    page.arrow(image.bottom, network.top)
    page.arrow(network.bottom, found.top)
    page.text((found.bottom[0], found.bottom[1] + 10), "prediction")

    frames = [Rect(160 + 202 * i, 34, 184, 228) for i in range(3)]
    panels = [Rect(frame.x + 8, frame.y + 30, 168, 168 * HEIGHT) for frame in frames]
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
    return page


def _proportions() -> tuple[torch.Tensor, torch.Tensor]:
    """Proportions of background and organs: in volumes with all labels, and in the mean prediction of others."""
    full, partial = ([make_phantom(seed).labels([*ORGANS]) for seed in seeds] for seeds in ((1, 2, 3, 4), (5, 6)))
    prior = torch.stack([certain(volume).softmax(1).mean((0, 2, 3, 4)) for volume in full]).mean(0)
    logits = torch.cat([pretended_logits(volume, 1, moved=1, blur=1) for volume in partial])
    held_back = torch.tensor([0, 0, 1.0, 0, 0, 1.5])  # stomach and pancreas
    return prior, mean_prediction(logits - held_back[:, None, None, None])


def _draw_proportions(page: Page, rect: Rect) -> None:
    """Prior and mean prediction of each organ, on a logarithmic axis."""

    def across(share: float) -> float:
        return rect.x + rect.w * (math.log10(share) + 3) / 2  # 0.001 to 0.1

    step = rect.h / len(ORGANS)
    for share, words in ((0.001, "0.1 %"), (0.01, "1 % of voxels"), (0.1, "10 %")):
        page.axes.plot([across(share)] * 2, [rect.y, rect.y + rect.h], color=GRID, lw=1, zorder=0)
        page.text((across(share), rect.y + rect.h + 9), words, 8, MUTED)
    for i, (name, q, p) in enumerate(zip(ORGANS, *(shares[1:].tolist() for shares in _proportions()), strict=True)):
        y = rect.y + (i + 0.5) * step
        page.text((rect.x - 8, y), name.replace("_", " "), across="right")
        page.arrow((across(p), y), (across(q), y), colour=MUTED, head=False)
        page.axes.scatter(across(q), y, 34, TEAL, zorder=3)
        page.axes.scatter(across(p), y, 34, "white", edgecolors=AMBER, linewidths=1.5, zorder=3)


def pann() -> Page:
    """Full labels, completed labels and the prior."""
    full, partial = abdomen(), abdomen(5)
    liver = list(ORGANS).index("liver") + 1
    given = np.where(partial.labels == liver, liver, 0)
    annotated = torch.arange(len(ORGANS) + 1)[None] == liver
    pseudo = pseudo_labels(pretended_logits(partial.labels, 6, moved=2), annotated)
    completed = complete_target(torch.from_numpy(given)[None, None], pseudo)[0, 0].numpy()

    page = Page(396)
    width, height = 104, 104 * HEIGHT
    whole = page.segmentation(Rect(14, 34, width, height), full.image, full.labels, "all labels")
    part = page.segmentation(Rect(14, 206, width, height), partial.image, given, "liver label alone")
    for rect, words in ((whole, "3 of 4 samples"), (part, "1 of 4 samples")):
        page.text((rect.bottom[0], rect.y + height + 12), words, 8, MUTED)
    network = page.network(Rect(158, 96, 96, 72), "U-Net")
    teacher = page.network(Rect(158, 308 - 40, 96, 80), "teacher:\nfrozen copy", True)
    joint = (138, network.left[1])
    page.arrow(whole.right, (joint[0], whole.right[1]), joint, training=True, head=False)
    page.arrow(part.right, (joint[0], part.right[1]), joint, training=True, head=False)
    page.arrow(joint, network.left)
    page.arrow((joint[0], part.right[1]), (joint[0], teacher.left[1]), teacher.left, training=True)

    places = [Rect(296, y, width, height) for y in (34, 150, 308 - height / 2)]
    page.picture(places[0], coloured(pretended_logits(full.labels, 4)), "prediction")
    page.picture(places[1], coloured(pretended_logits(partial.labels, 4)))
    page.segmentation(places[2], partial.image, completed)
    page.text((places[2].bottom[0], places[2].y + height + 12), "completed labels")
    page.arrow(network.right, (275, network.right[1]), (275, places[0].left[1]), places[0].left)
    page.arrow((275, network.right[1]), (275, places[1].left[1]), places[1].left, training=True)
    page.arrow(teacher.right, places[2].left, training=True)
    page.legend(14, 380)
    term = page.box(Rect(424, places[0].left[1] - 18, 152, 36), "$J_L$: Dice + CE\nwith all labels")
    page.arrow(places[0].right, term.left, training=True)
    term = page.box(Rect(424, 290, 152, 36), "$J_P$: Dice + CE\nwith completed labels")
    page.arrow(places[2].right, term.left, training=True)
    page.arrow((400, 206), (412, 206), (412, 278), (term.top[0], 278), term.top, training=True)

    frame = Rect(424, 104, 326, 162)
    page.frame(frame, AMBER, training=True)
    page.arrow((400, 180), (frame.x, 180), training=True)
    page.text((frame.top[0], frame.y + 16), "$J_C$: KL of proportions of the organs")
    for x, words, edge, fill in (
        (448, "cases with all labels (prior)", TEAL, TEAL),
        (618, "mean prediction", AMBER, "white"),
    ):
        page.axes.scatter(x, 139, 34, fill, edgecolors=edge, linewidths=1.5)
        page.text((x + 9, 139), words, 8, MUTED, across="left")
    _draw_proportions(page, Rect(530, 151, 200, 95))
    return page
