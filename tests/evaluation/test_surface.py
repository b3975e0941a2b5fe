import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_ext.core.masks import border, bounding_box
from nnunet_ext.evaluation import surface
from nnunet_ext.evaluation.distances import Distances
from nnunet_ext.evaluation.surface import surface_distances
from tests.evaluation.brute_force import KINDS, SHAPES, border_points, directed, random_masks

CONVENTIONS = [{"neighbourhood": n, "edge_is_surface": edge} for n in (6, 18, 26) for edge in (True, False)]


@pytest.mark.parametrize("options", CONVENTIONS, ids=str)
@pytest.mark.parametrize("shape", [(6, 7, 5), (9, 8)])
@pytest.mark.parametrize("ignore", [False, True])
def test_border_equals_its_definition(options, shape, ignore):
    rng = np.random.default_rng(0)
    for density in (0.5, 0.9, 1.0):
        mask = rng.random(shape) < density
        ignored = (rng.random(shape) < 0.2) & ~mask if ignore else None
        found = np.argwhere(border(mask, ignored=ignored, **options))
        np.testing.assert_array_equal(found, border_points(mask, ignored=ignored, **options))


@pytest.mark.parametrize("method", ["tree", "transform", "auto", "shells"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("options", [CONVENTIONS[0], CONVENTIONS[3], CONVENTIONS[5]], ids=str)
@pytest.mark.parametrize("block", [None, 7])
def test_distances_equal_all_pairs(method, kind, shape, spacing, options, block, monkeypatch):
    if block is not None:  # several blocks from one slab, and blocks that begin in the slab before
        monkeypatch.setattr(surface, "_BLOCK_LEAST", block)
        monkeypatch.setattr(surface, "_BLOCK_SHARE", 0.0)
        monkeypatch.setattr(surface, "_SCAN_MOST", 2 * shape[-1] * shape[-2])
    if method == "shells":  # for however few points
        monkeypatch.setattr(surface, "_FEW", 0)
        method = "auto"
    ref, pred = random_masks(np.random.default_rng(7), shape, kind)
    if kind == "full":
        options = options | {"edge_is_surface": True}
    found = surface_distances(ref, pred, spacing, method=method, **options)
    pred_to_ref, ref_to_pred = directed(ref, pred, spacing, **options)
    np.testing.assert_allclose(found.pred_to_ref.expanded(), pred_to_ref, atol=1e-9)
    np.testing.assert_allclose(found.ref_to_pred.expanded(), ref_to_pred, atol=1e-9)


def test_slabs_that_cannot_settle_a_distance_leave_it_to_the_tree(monkeypatch):
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 64)
    monkeypatch.setattr(surface, "_HALO", 2)
    rng = np.random.default_rng(5)
    for ref in (rng.random((30, 5, 6)) < 0.4, np.zeros((30, 5, 6), bool)):
        pred = rng.random((30, 5, 6)) < 0.4
        ref[0, 2, 2] = True
        pred[12:27] = False  # distances across the gap exceed the halo
        found = surface_distances(ref, pred, (3.0, 1.0, 0.5), method="transform")
        pred_to_ref, ref_to_pred = directed(ref, pred, (3.0, 1.0, 0.5))
        np.testing.assert_allclose(found.pred_to_ref.expanded(), pred_to_ref, atol=1e-9)
        np.testing.assert_allclose(found.ref_to_pred.expanded(), ref_to_pred, atol=1e-9)


def test_a_slab_does_not_trust_a_distance_longer_than_its_halo(monkeypatch):
    monkeypatch.setattr(surface, "_SLAB_VOXELS", 1)
    monkeypatch.setattr(surface, "_HALO", 2)
    ref, pred = np.zeros((30, 3, 40), bool), np.zeros((30, 3, 40), bool)
    ref[7, 1, 0] = True
    pred[7, 1, 39] = True  # in the slab of planes 0 to 9, 39 voxels away
    pred[12, 1, 0] = True  # beyond it, 5 voxels away
    assert surface_distances(ref, pred, (1, 1, 1), method="transform").ref_to_pred.values == pytest.approx([5.0])


def test_points_farther_than_any_of_the_sample_are_found(monkeypatch):
    monkeypatch.setattr(surface, "_PROBE", 4)
    rng = np.random.default_rng(2)
    ref, pred = rng.random((2, 24, 30)) < 0.5
    pred[:, 12:] = False
    ref[5, 29] = True
    found = surface_distances(ref, pred, (1, 1))
    np.testing.assert_allclose(found.ref_to_pred.expanded(), directed(ref, pred, (1, 1))[1], atol=1e-9)
    assert np.isfinite(found.ref_to_pred.values).all()


def test_a_costly_tree_is_given_up_for_the_transform(monkeypatch):
    monkeypatch.setattr(surface, "_PROBE", 4)
    monkeypatch.setattr(surface, "_BUILD_S", 0.0)
    monkeypatch.setattr(surface, "_QUERY_S", 0.0)
    monkeypatch.setattr(surface, "_TRANSFORM_S", 1e-15)  # any point is dearer
    calls = []
    original = surface._by_transform
    monkeypatch.setattr(surface, "_by_transform", lambda *args: calls.append(1) or original(*args))
    ref, pred = random_masks(np.random.default_rng(3), (9, 8, 10), "noise")
    found = surface_distances(ref, pred, (1, 1, 1))
    assert calls
    np.testing.assert_allclose(found.pred_to_ref.expanded(), directed(ref, pred, (1, 1, 1))[0], atol=1e-9)


def test_an_object_that_fills_the_image_has_the_edge_as_surface():
    full, inner = np.ones((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    inner[2:4, 2:4, 2:4] = True
    found = surface_distances(full, inner, (1, 1, 1), edge_is_surface=False)
    assert found.pred_to_ref.values == pytest.approx([2.0])
    same = surface_distances(full, full, (1, 1, 1), edge_is_surface=False)
    assert same.pred_to_ref.size == 6**3 - 4**3 and same.pred_to_ref.values.tolist() == [0.0]


def test_shifted_box_is_known():
    # Two 4x4x4 boxes, 3 voxels of 2 mm apart along z: the furthest faces are 6 mm from the other box.
    ref, pred = np.zeros((12, 8, 8), bool), np.zeros((12, 8, 8), bool)
    ref[1:5, 2:6, 2:6] = True
    pred[4:8, 2:6, 2:6] = True
    found = surface_distances(ref, pred, (2.0, 1.0, 1.0))
    assert found.pred_to_ref.largest() == 6.0
    assert found.pred_to_ref.size == found.ref_to_pred.size == 4**3 - 2**3


def test_concentric_balls():
    """3.827 mm is what MedPy, MONAI and SciPy agree on for balls of 30 and 34 mm in 1 mm voxels."""
    z, y, x = np.ogrid[:81, :81, :81]
    squared = (z - 40) ** 2 + (y - 40) ** 2 + (x - 40) ** 2
    found = surface_distances(squared <= 30**2, squared <= 34**2, (1, 1, 1))
    pooled = Distances.joined([found.pred_to_ref, found.ref_to_pred])
    assert pooled.mean() == pytest.approx(3.827, abs=6e-4)
    assert pooled.largest() == pytest.approx(4.243, abs=6e-4)


def test_bounding_box():
    mask = np.zeros((5, 6, 7), bool)
    assert bounding_box(mask) is None
    mask[1, 2, 3] = mask[3, 2, 6] = True
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(3, 7))
    assert bounding_box(np.array([0, 2, 0, 3, 0])) == (slice(1, 4),) and bounding_box(np.zeros(3)) is None
    assert bounding_box(mask.astype(np.uint16) * 700) == bounding_box(mask)


def test_bad_input():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="do not fit"):
        surface_distances(mask, mask, (1, 1, 1))
    with pytest.raises(ValueError, match="non-empty"):
        surface_distances(mask, ~mask, (1, 1))


@st.composite
def pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.tuples(*[st.integers(2, 7)] * draw(st.integers(2, 3))))
    density = draw(st.floats(0.05, 0.95))
    ref, pred = (rng.random(shape) < density for _ in range(2))
    ref.flat[0] = pred.flat[-1] = True
    spacing = tuple(draw(st.floats(0.3, 6)) for _ in shape)
    options = draw(st.sampled_from(CONVENTIONS))
    return ref, pred, spacing, options


def same(a, b):
    np.testing.assert_allclose(a.expanded(), b.expanded(), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(pairs())
def test_swapping_the_masks_swaps_the_lists(pair):
    ref, pred, spacing, options = pair
    there, back = surface_distances(ref, pred, spacing, **options), surface_distances(pred, ref, spacing, **options)
    same(there.pred_to_ref, back.ref_to_pred)
    same(there.ref_to_pred, back.pred_to_ref)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.permutations(range(3)))
def test_axes_may_be_permuted_with_their_spacing(pair, order):
    ref, pred, spacing, options = pair
    axes = [a for a in order if a < ref.ndim]
    moved = surface_distances(ref.transpose(axes), pred.transpose(axes), [spacing[a] for a in axes], **options)
    same(surface_distances(ref, pred, spacing, **options).pred_to_ref, moved.pred_to_ref)


@settings(max_examples=60, deadline=None)
@given(pairs(), st.integers(1, 3))
def test_padding_changes_nothing_where_the_edge_is_surface(pair, width):
    ref, pred, spacing, options = pair
    options = options | {"edge_is_surface": True}
    padded = surface_distances(np.pad(ref, width), np.pad(pred, width), spacing, **options)
    same(surface_distances(ref, pred, spacing, **options).ref_to_pred, padded.ref_to_pred)
