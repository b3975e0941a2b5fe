"""Figures of the methods that train two networks."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from matplotlib.patches import Rectangle

from figures.abdomen import HEIGHT, ORGANS, abdomen, coloured, hard, pretended_logits
from figures.page import AMBER, BACKBONE, BLUE, DIFFERENCE, DISCRIMINATOR, TEAL, Page, Rect, tint
from nnunet_ext.core.figure_style import MUTED
from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses.dual import difference_region, sharpen
from nnunet_ext.losses.multi_level import scaled_distance
from nnunet_ext.networks.cascade import normalise
from nnunet_ext.networks.coarse_to_fine import MARGIN
from nnunet_ext.networks.multi_level import uncertain_pixels
from nnunet_ext.networks.slices import windows_of

TEMPERATURE = 0.1  # of SDNetOptions, whose import takes seconds


def sdnet() -> Page:
    """Two networks on both halves of a batch."""
    labelled, unlabelled = abdomen(), abdomen(5)
    page = Page(384)
    width, height = 100, 100 * HEIGHT
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
    return page


def cascaded() -> Page:
    """Two networks in cascade, and the discriminator."""
    shown = abdomen()
    first, second = (pretended_logits(shown.labels, 4, moved, blur) for moved, blur in ((5, 4), (2, 1.5)))
    maps = normalise(first)[0].numpy()
    page = Page(330)
    width, height, middle = 112, 112 * HEIGHT, 98
    image = page.picture(Rect(14, middle - height / 2, width, height), shown.image, "image")
    one, two = (
        page.network(Rect(x, middle - 38, 94, 76), words) for x, words in ((160, "network 1"), (448, "network 2"))
    )
    page.arrow(image.right, one.left)
    page.arrow((143, middle), (143, 26), (two.top[0], 26), two.top)
    page.text((319, 15), "image and maps together: auto-context")
    for i, number in enumerate((0, 1, 2, 5)):
        place = Rect(286 + 68 * (i % 2), middle - 52 + 54 * (i // 2), 64, 64 * HEIGHT)
        page.picture(place, maps[number], limits=(-2, 3.5))
    page.text((352, middle + 64), "normalised maps", 9)
    page.arrow(one.right, (284, middle))
    page.arrow((420, middle), two.left)
    below, total = middle + 84, (572, middle)
    page.arrow((270, middle), (270, below), (total[0], below), (total[0], middle + 8))
    page.text((420, below + 13), "the second network corrects the logits of the first", 9)
    page.arrow(two.right, (total[0] - 8, middle))
    page.plus(total)

    output = page.segmentation(Rect(634, middle - height / 2, width, height), shown.image, hard(second), "segmentation")
    page.arrow((total[0] + 8, middle), output.left)
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
    return page


def _pixels_at_work(page: Page, rect: Rect, logits: torch.Tensor, number: int) -> None:
    """The least certain pixels of logits (1, C, H, W) shown in ``rect``, some of them related to one another."""
    rows, columns = logits.shape[2:]
    found = uncertain_pixels(logits, number)[0].numpy()
    points = [rect.at((k % columns + 0.5) / columns, (k // columns + 0.5) / rows) for k in found]
    for start, end in combinations(points[:: number // 10], 2):
        page.axes.plot(*zip(start, end, strict=True), color="white", lw=0.5, alpha=0.6)
    page.axes.scatter(*zip(*points, strict=True), 3, AMBER, lw=0, zorder=3)


def multi_level_network() -> Page:
    """A coarse network, a box, and a fine network of three branches."""
    pancreas = list(ORGANS).index("pancreas") + 1
    shown = abdomen(spacing=1.0)
    organ = np.where(shown.labels == pancreas, shown.labels, 0)
    coarse, fine = (pretended_logits(organ, 4, moved, blur) for moved, blur in ((6.0, 8.0), (2.5, 2.0)))
    (window,) = windows_of(torch.from_numpy(hard(coarse) == pancreas)[None], MARGIN, 16, 1)
    top, left, rows, columns = window.tolist()
    box = (slice(top, top + rows), slice(left, left + columns))
    saliency = 0.4 + 0.9 * torch.softmax(coarse, 1)[0, pancreas].numpy()  # pretended too

    page = Page(392)
    width, height = 112, 112 * HEIGHT
    image = page.picture(Rect(14, 34, width, height), shown.image, "image")
    first = page.network(Rect(14, 138, width, 66), "coarse network", stages=BACKBONE)
    found = page.segmentation(Rect(14, 248, width, height), shown.image, hard(coarse), "coarse prediction")
    scale = width / shown.image.shape[1]
    page.axes.add_patch(
        Rectangle((found.x + left * scale, found.y + top * scale), columns * scale, rows * scale, fc="none", ec="white")
    )
    page.arrow(image.bottom, first.top)
    page.arrow(first.bottom, (first.bottom[0], 223))
    page.text((found.bottom[0], found.y + height + 12), "Dice + CE", 8, AMBER)
    branches = [Rect(386, 36 + 107 * i, 116, 116 * rows / columns) for i in range(3)]
    middle = branches[1].left[1]
    crop = Rect(160, middle - 50 * rows / columns, 100, 100 * rows / columns)
    page.picture(crop, (shown.image * saliency)[box].clip(0, 1), "box, weighted")
    for start in (image, found):
        page.arrow(start.right, (144, start.right[1]), (144, middle), crop.left)

    page.frame(Rect(280, 14, 332, 332), TEAL, fill=tint(TEAL, 0.05))
    page.text((330, 30), "fine network", weight="bold")
    backbone = page.network(Rect(290, middle - 36, 66, 72), "backbone", stages=BACKBONE)
    page.arrow(crop.right, backbone.left)
    fusion = page.box(Rect(532, middle - 26, 64, 52), "fusion by\nsaliency", TEAL, training=False)
    for branch, name, loss in zip(
        branches, ("region", "boundary", "pixels"), ("Dice + CE", "distance", "CE"), strict=True
    ):
        page.arrow(backbone.right, (371, middle), (371, branch.left[1]), branch.left)
        page.arrow(branch.right, (517, branch.right[1]), (517, middle), fusion.left)
        page.text((branch.x, branch.y - 7), name, across="left", down="baseline")
        page.text((branch.x + branch.w, branch.y - 7), loss, 8, AMBER, across="right", down="baseline")
    page.picture(branches[0], coloured(pretended_logits(organ, 4, 2.5, 4.0))[box])
    maps = signed_distance_maps(organ[None], (1.0, 1.0), (pancreas,))[None]
    phi = scaled_distance(maps, torch.from_numpy(organ == pancreas)[None, None])[0, 0].numpy()
    page.picture(branches[1], -phi[box], cmap="RdBu", limits=(-1.5, 1.5))
    page.picture(branches[2], shown.image[box] * 0.6)
    _pixels_at_work(page, branches[2], fine[:, :, box[0], box[1]], 300)
    result = page.segmentation(
        Rect(636, middle - height / 2, width, height), shown.image, hard(fine), "fine prediction"
    )
    page.text((result.bottom[0], result.y + height + 14), "Dice + CE", 8, AMBER)
    page.arrow(fusion.right, result.left)
    page.arrow(
        (result.x + 94, result.y + height), (result.x + 94, 360), (crop.bottom[0], 360), crop.bottom, colour=BLUE
    )
    words = "prediction alone: the box follows the fine prediction, until it no longer changes"
    page.text((748, 374), words, 8, BLUE, across="right")
    page.legend(14, 374, dashed=False)
    page.text((186, 374), "orange: losses", 8, AMBER, across="left")
    return page
