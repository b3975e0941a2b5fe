"""Eq. 4 and 5 of PaNN in loops, and pseudo-labels that never name an annotated organ."""

import math

import numpy as np
import pytest
import torch

from nnunet_ext.labels import REGIONS, LabelLayout
from nnunet_ext.losses.partial import VoxelCrossEntropy, complete_target, pseudo_labels, voxel_cross_entropy
from tests.conftest import COMPILERS

SHAPES = {"2D": (3, 4, 5, 6), "3D": (3, 4, 3, 4, 2)}
ANNOTATED = torch.tensor([[True] * 4, [False, True, False, False], [False] * 4])  # all, one organ, nothing


def example(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    teacher = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (shape[0], 1, *shape[2:]), generator=generator)
    target[1][target[1] != 1] = 0
    target[2] = 0
    return logits, teacher, target


def log_probability(logits, index):
    b, voxel = index[0], index[1:]
    scores = [float(logits[(b, c, *voxel)]) for c in range(logits.shape[1])]
    return [s - math.log(sum(math.exp(t) for t in scores)) for s in scores]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_equations_4_and_5_in_loops(shape):
    logits, teacher, target = example(shape)
    labelled, partial, n_partial = 0.0, 0.0, 0
    for index in np.ndindex(shape[0], *shape[2:]):
        b, voxel = index[0], index[1:]
        label, log_p = int(target[(b, 0, *voxel)]), log_probability(logits, index)
        labelled -= log_p[label]
        if b == 0:
            continue
        n_partial += 1
        open_classes = [c for c in range(4) if c == 0 or not ANNOTATED[b, c]]
        pseudo = max(open_classes, key=lambda c: float(teacher[(b, c, *voxel)]))
        for c in range(4):
            if label != 0:  # the first term of Eq. 5: a label is given
                partial -= (label == c) * log_p[c]
            else:  # the second: unlabelled background
                partial -= (pseudo == c) * log_p[c]
    assert voxel_cross_entropy(logits, target).item() == pytest.approx(labelled / target.numel(), rel=1e-12)
    completed = complete_target(target, pseudo_labels(teacher, ANNOTATED))
    found = voxel_cross_entropy(logits[1:], completed[1:])
    assert found.item() == pytest.approx(partial / n_partial, rel=1e-12)
    assert torch.equal(completed[0], target[0])  # a full annotation leaves nothing open
    small = logits[:, :, :2, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: voxel_cross_entropy(x, completed[:, :, :2, :2]), small)


def test_no_pseudo_label_names_an_annotated_organ_and_given_labels_stay():
    logits, _, target = example((3, 4, 20, 20))
    pseudo = pseudo_labels(logits, ANNOTATED)
    assert set(pseudo[0].unique().tolist()) == {0}
    assert set(pseudo[1].unique().tolist()) == {0, 2, 3}
    assert torch.equal(pseudo[2, 0], logits[2].argmax(0))
    certain = torch.full((1, 4, 2, 2), -9.0)
    certain[:, 1] = 9.0  # sure of the annotated organ
    certain[:, 3] = 1.0
    assert (pseudo_labels(certain, ANNOTATED[1:2]) == 3).all()  # the next one, no hole in the target
    completed = complete_target(target, pseudo)
    assert torch.equal(completed[target != 0], target[target != 0])
    assert torch.equal(completed[target == 0], pseudo[target == 0])


def test_pseudo_labels_at_coarser_outputs_are_those_of_the_nearest_voxel():
    pseudo = torch.arange(8 * 9 * 6).reshape(1, 1, 8, 9, 6)
    for shape in ((4, 9, 3), (2, 4, 2), (8, 5, 1)):  # 9 does not divide: nnU-Net rounds
        coarse = complete_target(torch.zeros(1, 1, *shape, dtype=torch.int16), pseudo)
        assert coarse.dtype == torch.int16
        expected = torch.nn.functional.interpolate(pseudo.float(), shape, mode="nearest-exact")
        assert torch.equal(coarse, expected.short())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_ignored_voxels_stay_ignored_and_do_not_count(shape):
    logits, teacher, target = example(shape)
    ignored = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) < 0.3
    marked = torch.where(ignored, 4, target)
    completed = complete_target(marked, pseudo_labels(teacher, ANNOTATED))
    assert (completed[ignored] == 4).all()
    expected, count = 0.0, 0
    for index in np.ndindex(shape[0], *shape[2:]):
        label = int(completed[(index[0], 0, *index[1:])])
        if label != 4:
            expected -= log_probability(logits, index)[label]
            count += 1
    assert voxel_cross_entropy(logits, completed, LabelLayout(ignore_label=4)).item() == pytest.approx(
        expected / count, rel=1e-12
    )
    nothing = logits.clone().requires_grad_()
    loss = VoxelCrossEntropy(LabelLayout(ignore_label=4))(nothing, torch.full_like(target, 4))
    loss.backward()
    assert loss.item() == 0
    assert (nothing.grad == 0).all()


@pytest.mark.parametrize("ignore", [False, True])
def test_regions_are_completed_and_counted_one_by_one(ignore):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64)
    teacher = torch.randn(2, 2, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 3 if ignore else 2, 5, 6), generator=generator).short()
    annotated = torch.tensor([[True, False], [True, True]])
    completed = complete_target(target, pseudo_labels(teacher, annotated, REGIONS), REGIONS)
    expected, count = 0.0, 0
    for b, y, x in np.ndindex(2, 5, 6):
        for c in range(2):
            inside = bool(target[b, c, y, x]) or (not annotated[b, c] and float(teacher[b, c, y, x]) > 0)
            assert bool(completed[b, c, y, x]) == inside
            if not ignore or target[b, 2, y, x] == 0:
                z = float(logits[b, c, y, x])
                expected += math.log1p(math.exp(-z if inside else z))
                count += 1
    assert completed.dtype == target.dtype
    assert torch.equal(completed[:, 2:], target[:, 2:])
    loss = voxel_cross_entropy(logits, completed, LabelLayout(True, 3 if ignore else None))
    assert loss.item() == pytest.approx(expected / count, rel=1e-12)


@pytest.mark.parametrize("backend", COMPILERS)
def test_half_precision_is_lifted_and_compiles_in_one_graph(backend):
    logits, _, target = example((3, 4, 32, 32))
    logits = 20 * logits
    expected = voxel_cross_entropy(logits, target).item()
    compiled = torch.compile(voxel_cross_entropy, fullgraph=True, backend=backend)
    assert compiled(logits.half(), target).dtype == torch.float32
    assert compiled(logits.half(), target).item() == pytest.approx(expected, rel=1e-3)


def test_the_mean_over_one_voxel_that_counts_is_its_value():
    logits = torch.randn(1, 3, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    target = torch.full((1, 1, 2, 3), 3)
    target[0, 0, 1, 2] = 2
    expected = -torch.log_softmax(logits, 1)[0, 2, 1, 2]
    assert voxel_cross_entropy(logits, target, LabelLayout(ignore_label=3)).item() == pytest.approx(float(expected))
