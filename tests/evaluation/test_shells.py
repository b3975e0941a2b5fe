"""Nearest voxels by shells: exact where they are found, the others are handed back."""

import numpy as np
import pytest

from nnunet_ext.evaluation import shells
from nnunet_ext.evaluation.shells import Shells


def nearest(queries, other, spacing):
    """All pairs."""
    points = np.argwhere(other) * spacing
    asked = np.stack(np.unravel_index(queries, other.shape), -1) * spacing
    return np.sqrt(((asked[:, None] - points[None]) ** 2).sum(-1)).min(1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 0.7, 0.9), (0.3, 4.0, 1.0), (1.0, 1.3), (1.0,)], ids=str)
@pytest.mark.parametrize("density", [0.5, 0.05, 0.005])
def test_distances_are_exact_or_handed_back(spacing, density):
    shape = {3: (9, 14, 15), 2: (30, 40), 1: (200,)}[len(spacing)]
    rng = np.random.default_rng(3)
    other = rng.random(shape) < density
    other.flat[0] = True
    queries = np.flatnonzero(~other)
    search = Shells(other, np.asarray(spacing))
    left = np.concatenate([search.search(part) for part in np.array_split(queries, 3)])
    settled = ~np.isin(queries, left)
    assert settled.any()
    expected = np.sort(nearest(queries, other, spacing)[settled])
    np.testing.assert_allclose(search.found().expanded(), expected, rtol=1e-12)
    if density == 0.5:
        assert left.size == 0


def test_looking_at_voxels_far_apart_is_given_up(monkeypatch):
    other = np.zeros((4, 60, 60), bool)
    other[:, :, :3] = True
    queries = np.flatnonzero(np.pad(np.ones((4, 60, 3), bool), ((0, 0), (0, 0), (57, 0))))
    spacing = np.array([1.0, 0.1, 0.1])
    np.testing.assert_array_equal(Shells(other, spacing).search(queries), queries)
    looks = []
    monkeypatch.setattr(shells, "_LOOK_S", 0.0)  # nothing costs anything: it goes on to the end of the ball
    monkeypatch.setattr(shells, "_offsets", lambda s, f=shells._offsets: looks.append(f(s)) or f(s))
    left = Shells(other, spacing).search(queries)
    reach = looks[0][1].max()
    assert 0.5 < reach < 5.0
    np.testing.assert_array_equal(left, queries[nearest(queries, other, spacing) > reach])


def test_offsets_are_all_of_a_ball_in_order():
    offsets, lengths = shells._offsets((2.0, 1.0, 0.5))
    assert (np.diff(lengths) >= 0).all()
    assert lengths[0] == 0.5
    expected = sum(
        0 < (2.0 * z) ** 2 + y**2 + (0.5 * x) ** 2 <= lengths[-1] ** 2 + 1e-9
        for z in range(-20, 21)
        for y in range(-20, 21)
        for x in range(-40, 41)
    )
    assert len(offsets) == expected
    assert 400 < len(offsets) < 800
