"""Cross-entropy at the points where a prediction is least certain.

Source: Liu et al. 2022 (Multi-level structural information), Eq. 10 and section 2.4; Kirillov et al. 2020 (PointRend).
Random numbers are drawn by :func:`draw_points` alone; the rest is a function of its arguments.

The paper interpolates "the original prediction" to find the uncertain pixels, and takes the loss on "the final logits
layer"; here logits are interpolated for both, as in PointRend, and made probabilities at the points.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, grid_sample

from nnunet_ext.labels import CLASSES, LabelLayout
from nnunet_ext.precision import full_precision

OVERSAMPLING = 3  # k of section 2.4
IMPORTANCE = 0.75  # m of section 2.4


def draw_points(
    batch_size: int, number: int, dimensions: int, device: torch.device, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Uniform random points, (B, N, dimensions), from -1 to 1 along each axis of a patch, in axis order.

    They are drawn on the CPU, the same for every device, and sent to ``device`` without a wait for what runs there.
    """
    pinned = device.type == "cuda" and torch.cuda.is_available()
    points = torch.rand(batch_size, number, dimensions, generator=generator, pin_memory=pinned)
    return points.to(device, non_blocking=True).mul_(2).sub_(1)


def at_points(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Interpolate maps (B, C, *spatial) linearly at points (B, N, dimensions); returns (B, C, N).

    The points are relative to the edges of the patch, so that they mean the same place at any resolution. Between
    the centre of the outermost voxels and the edge, the outermost value holds.
    """
    dimensions = maps.ndim - 2
    grid = points.flip(-1).to(maps.dtype)  # grid_sample wants x first
    grid = grid.reshape(points.shape[0], *[1] * (dimensions - 1), points.shape[1], dimensions)
    sampled = grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return sampled.reshape(*maps.shape[:2], points.shape[1])


def voxels_of(maps: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Values of the voxels of maps (B, C, *spatial) in which points (B, N, dimensions) lie; returns (B, C, N)."""
    flat = torch.zeros(points.shape[:2], dtype=torch.long, device=points.device)
    for axis, length in enumerate(maps.shape[2:]):
        index = ((points[..., axis] + 1) / 2 * length).floor().long().clamp(0, length - 1)
        flat = flat * length + index
    return maps.flatten(2).gather(2, flat[:, None].expand(-1, maps.shape[1], -1))


def certainty(logits: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """How sure a prediction is, (B, N) from logits (B, C, N).

    For classes, the difference of the two highest probabilities; for regions, ``|p - 0.5|`` of the least certain one.
    """
    probabilities = layout.probabilities(logits)
    if layout.regions:
        return (probabilities - 0.5).abs().amin(1)
    highest = probabilities.topk(2, 1).values
    return highest[:, 0] - highest[:, 1]


def least_certain(
    logits: torch.Tensor,
    candidates: torch.Tensor,
    number: int,
    valid: torch.Tensor | None = None,
    layout: LabelLayout = CLASSES,
) -> torch.Tensor:
    """Indices of the candidates of which a prediction is least certain.

    Args:
        logits: (B, C, *spatial).
        candidates: (B, kN, dimensions), see :func:`draw_points`.
        number: how many, mN.
        valid: (B, kN), ``False`` for points that must not be chosen.
        layout: of the labels.

    Returns:
        (B, mN), indices into the candidates.
    """
    with torch.no_grad():
        sure = certainty(at_points(full_precision(logits), candidates), layout)
        if valid is not None:
            sure = sure.masked_fill(~valid, torch.inf)
        return sure.topk(number, 1, largest=False).indices


def uncertain_point_loss(
    logits: torch.Tensor,
    target: torch.Tensor,
    candidates: torch.Tensor,
    others: torch.Tensor,
    uncertain: int,
    layout: LabelLayout = CLASSES,
) -> torch.Tensor:
    """Cross-entropy at the uncertain points and some others (Eq. 10, divided by the number of points).

    Args:
        logits: of a coarse output, (B, C, *coarse).
        target: the finest target: label map (B, 1, *spatial), or regions (B, R, *spatial), 0 or 1, followed by a
            channel that marks ignored voxels if there is an ignore label. A point takes the value of its voxel.
        candidates: points among which the uncertain ones are sought, (B, kN, dimensions), see :func:`draw_points`.
        others: random points that count as they are, (B, (1 - m)N, dimensions).
        uncertain: how many uncertain ones count, mN.
        layout: of the labels. Ignored points do not count; with regions the mean is over points and regions.

    Returns:
        Scalar, at least 0; 0 if all points are ignored.
    """
    logits = full_precision(logits)
    valid = layout.valid(voxels_of(target, candidates)) if layout.ignore_label is not None else None
    chosen = least_certain(logits, candidates, uncertain, None if valid is None else valid[:, 0], layout)
    sought = candidates.gather(1, chosen[..., None].expand(-1, -1, candidates.shape[2]))
    points = torch.cat([sought, others], 1)
    return point_cross_entropy(at_points(logits, points), voxels_of(target, points), layout)


def point_cross_entropy(logits: torch.Tensor, truth: torch.Tensor, layout: LabelLayout = CLASSES) -> torch.Tensor:
    """Mean cross-entropy of points.

    Args:
        logits: (B, C, N).
        truth: values of a target at the points, (B, channels, N), see :func:`uncertain_point_loss`.
        layout: of the labels. Ignored points do not count; with regions the mean is over points and regions.

    Returns:
        Scalar, at least 0; 0 if all points are ignored.
    """
    valid, values = layout.valid(truth), layout.values(truth)
    if layout.regions:
        loss = binary_cross_entropy_with_logits(logits, values.to(logits.dtype), reduction="none").mean(1)
    else:
        loss = cross_entropy(logits, values[:, 0].long(), reduction="none")
    counted = torch.ones_like(loss) if valid is None else valid[:, 0].to(loss.dtype)
    return (loss * counted).sum() / counted.sum().clamp(min=1)
