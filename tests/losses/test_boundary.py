"""The boundary loss against Eq. 6 in loops."""

import numpy as np
import pytest
import torch

from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses.boundary import boundary_loss

SHAPES = {"2D": (2, 3, 5, 6), "3D": (2, 2, 3, 4, 5)}


def distances(inside, spacing):
    labels = torch.from_numpy(inside.astype(np.int16))
    return signed_distance_maps(labels[None].numpy(), spacing, [1], margin=1000.0)[None].double()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_it_is_the_sum_of_equation_6_over_its_terms(shape):
    generator = torch.Generator().manual_seed(1)
    probabilities = torch.rand(shape, generator=generator, dtype=torch.float64)
    distance = 10 * torch.randn(shape, generator=generator, dtype=torch.float64)
    total = 0.0
    for index in np.ndindex(*shape):
        total += float(probabilities[index]) * float(distance[index])
    assert boundary_loss(probabilities, distance).item() == pytest.approx(total / np.prod(shape), rel=1e-12)
    probabilities.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: boundary_loss(p, distance), probabilities)


def test_the_ground_truth_itself_is_the_minimum():
    inside = np.zeros((8, 9, 10), bool)
    inside[2:6, 3:7, 2:8] = True
    distance = distances(inside, (2.0, 1.0, 1.0))
    perfect = boundary_loss(torch.from_numpy(inside)[None, None].double(), distance)
    assert perfect < 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = torch.rand(1, 1, *inside.shape, generator=generator, dtype=torch.float64)
        assert boundary_loss(other, distance) > perfect
        assert boundary_loss(other.round(), distance) > perfect


@pytest.mark.parametrize("axis", range(3))
def test_the_further_a_prediction_is_shifted_the_more_it_costs(axis):
    inside = np.zeros((24, 24, 24), bool)
    inside[6:12, 6:12, 6:12] = True
    distance = distances(inside, (1.0, 1.0, 1.0))
    losses = [
        float(boundary_loss(torch.from_numpy(np.roll(inside, n, axis))[None, None].double(), distance))
        for n in range(12)
    ]
    assert (np.diff(losses) > 0).all()


def test_a_shift_costs_its_millimetres_whatever_the_spacing():
    """An object of 12 mm in a field of 48 mm, shifted by 4 mm, sampled along one axis at 1 and at 2 mm."""
    losses = []
    for spacing in (1.0, 2.0):
        n = int(48 / spacing)
        inside = np.zeros((n, 48), bool)
        inside[int(16 / spacing) : int(28 / spacing), 16:28] = True
        shifted = np.roll(inside, int(4 / spacing), 0)
        distance = distances(inside, (spacing, 1.0))
        truth, prediction = (torch.from_numpy(m)[None, None].double() for m in (inside, shifted))
        losses.append(float(boundary_loss(prediction, distance) - boundary_loss(truth, distance)))
    assert losses[1] == pytest.approx(losses[0], rel=0.25)  # as exact as a border of one voxel is
    voxels = []  # the same shift in voxels costs more where voxels are larger
    for spacing in (1.0, 3.0):
        inside = np.zeros((24, 24), bool)
        inside[8:16, 8:16] = True
        distance = distances(inside, (spacing, spacing))
        truth, prediction = (torch.from_numpy(m)[None, None].double() for m in (inside, np.roll(inside, 2, 0)))
        voxels.append(float(boundary_loss(prediction, distance) - boundary_loss(truth, distance)))
    assert voxels[1] == pytest.approx(3 * voxels[0], rel=1e-3)


def test_half_precision_is_lifted_and_compiles_in_one_graph():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.rand(1, 1, 64, 64, 32, generator=generator).half()
    distance = (300 * torch.randn(probabilities.shape, generator=generator)).half()
    expected = (probabilities.double() * distance.double()).mean().item()
    assert (probabilities * distance).mean().item() != pytest.approx(expected, rel=1e-4)
    assert boundary_loss(probabilities, distance).item() == pytest.approx(expected, rel=1e-4)
    compiled = torch.compile(boundary_loss, fullgraph=True, backend="eager")
    assert compiled(probabilities, distance).item() == pytest.approx(expected, rel=1e-4)
