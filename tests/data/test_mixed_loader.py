"""The mix of full and partial cases, and the proportions of the classes under its sampling."""
# ruff: noqa: NPY002 - nnU-Net's loaders draw from the global generator

import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_ext.data.mixed_loader import MixedDataLoader

SHAPE = (12, 14, 16)


class Cases:
    """Cases f0 to f3 fully labelled 1 and 2; p0 to p2 with the same labels, of which nnU-Net knows only label 1."""

    identifiers = ("f0", "p0", "f1", "p1", "f2", "p2", "f3")

    def load_case(self, name):
        rng = np.random.default_rng(int(name[1]))
        segmentation = np.zeros((1, *SHAPE), np.int16)
        for label, corner in ((1, rng.integers(0, 3, 3)), (2, rng.integers(6, 9, 3))):
            segmentation[(0, *(slice(a, a + 3 + label) for a in corner))] = label
        segmentation[0, :, :, -1] = -1
        visible = (1, 2) if name.startswith("f") else (1,)
        locations = {label: np.argwhere(segmentation == label) for label in visible}
        return np.zeros((1, *SHAPE), np.float32), segmentation, None, {"class_locations": locations}


def make(batch_size=4, foreground=0.33, patch=(6, 6, 6), final=None, **options):
    manager = SimpleNamespace(all_labels=[0, 1, 2], has_ignore_label=False)
    loader = MixedDataLoader(
        Cases(),
        batch_size,
        patch,
        final or patch,
        manager,
        oversample_foreground_percent=foreground,
        partial_cases={"p0", "p1", "p2", "elsewhere"},
        **options,
    )
    assert (loader.full_cases, loader.partial_cases) == (["f0", "f1", "f2", "f3"], ["p0", "p1", "p2"])
    return loader


@pytest.mark.parametrize(("batch_size", "counts"), [(2, {0, 1}), (3, {0, 1}), (4, {1}), (6, {1, 2}), (8, {2})])
def test_a_quarter_is_partial_on_average_and_anywhere_in_the_batch(batch_size, counts):
    np.random.seed(0)
    loader = make(batch_size)
    loader.partial_share = 0.25
    drawn = np.array([[key.startswith("p") for key in loader.get_indices()] for _ in range(3000)])
    assert set(drawn.sum(1)) == counts
    assert drawn.mean() == pytest.approx(0.25, abs=0.02)
    assert drawn.mean(0) == pytest.approx([0.25] * batch_size, abs=0.05)
    assert {key for _ in range(100) for key in loader.get_indices()} == set(Cases.identifiers)


def test_until_then_it_draws_as_stock_nnunet_from_the_full_cases():
    loader = make()
    np.random.seed(3)
    first = loader.get_indices()
    np.random.seed(3)
    assert first == list(np.random.choice(loader.full_cases, 4))


def test_batches_carry_the_cases(monkeypatch):
    loader = make(2)
    loader.partial_share = 0.5
    batch = loader.generate_train_batch()
    assert sorted(key[0] for key in batch["keys"]) == ["f", "p"]
    assert batch["target"].shape == (2, 1, 6, 6, 6)


def _tell_share(loader, connection):
    for _ in range(2):
        connection.recv()
        connection.send(loader.partial_share)


@pytest.mark.parametrize("method", [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()])
def test_a_running_worker_learns_of_the_share(method):
    loader = make()
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_tell_share, args=(loader, there))
    process.start()
    there.close()
    told = []
    for share in (0.0, 0.25):
        loader.partial_share = share
        here.send(None)
        told.append(here.recv())
    process.join()
    assert told == [0.0, 0.25]


@pytest.mark.parametrize("foreground", [0.0, 0.33, 1.0])
def test_proportions_are_those_of_patches_drawn_for_partial_cases(foreground):
    """Seen from cases whose annotation shows label 1 alone; both labels are counted."""
    loader = make(foreground=foreground)
    np.random.seed(1)
    loader.full_cases = ["f0", "f1", "f2"]  # of which p0 to p2 are the twins
    found = loader.patch_proportions([(0,), (1,), (2,), (1, 2)], [{1}], None, 2000)
    loader.full_cases, loader.partial_cases = [], ["p0", "p1", "p2"]
    loader.partial_share = 1.0
    patches = np.concatenate([loader.generate_train_batch()["target"].numpy() for _ in range(500)])
    expected = [(patches <= 0).mean(), (patches == 1).mean(), (patches == 2).mean(), (patches > 0).mean()]
    assert found == pytest.approx(expected, rel=0.15, abs=0.002)
    assert found[0] + found[3] == pytest.approx(1)


def test_foreground_of_the_annotation_is_sampled_more_often():
    loader = make(foreground=1.0)
    of_first, of_second = (loader.patch_proportions([(1,), (2,)], [{label}], None, 500) for label in (1, 2))
    assert of_first[0] > 2 * of_second[0]
    assert of_second[1] > 2 * of_first[1]


def test_proportions_leave_the_random_numbers_of_the_run_alone_and_repeat():
    loader = make()
    np.random.seed(5)
    expected = np.random.rand(3)
    np.random.seed(5)
    first = loader.patch_proportions([(0,), (1,)], [{1}], None, 20)
    assert np.array_equal(np.random.rand(3), expected)
    assert np.array_equal(loader.patch_proportions([(0,), (1,)], [{1}], None, 20), first)
    assert not np.array_equal(loader.patch_proportions([(0,), (1,)], [{1}], None, 20, seed=1), first)


def test_only_the_middle_of_a_patch_that_is_enlarged_for_augmentation_counts():
    """Centred on label 1, which the last cases of a batch are, the middle holds more of it than the whole."""
    whole = make(foreground=1.0, patch=(11, 11, 11))
    middle = make(foreground=1.0, patch=(11, 11, 11), final=(3, 3, 3))
    shares = [loader.patch_proportions([(1,)], [{1}], None, 500)[0] for loader in (whole, middle)]
    assert shares[1] > 5 * shares[0]


def test_regions_and_ignored_voxels_are_sampled_too(monkeypatch):
    """nnU-Net keeps the places of regions under tuples, and those of all annotated voxels under one of its own."""
    plain = Cases.load_case

    def load_case(self, name):
        data, segmentation, previous, _ = plain(self, name)
        segmentation[0, 0] = 3
        places = {
            (1, 2): np.argwhere(np.isin(segmentation, (1, 2))),
            2: np.argwhere(segmentation == 2),
            (-1, 0, 1, 2): np.argwhere(segmentation < 3),
        }
        return data, segmentation, previous, {"class_locations": places}

    monkeypatch.setattr(Cases, "load_case", load_case)
    regions = [(1, 2), (2,)]
    loader = make(foreground=1.0)
    loader.has_ignore = True
    of_second, of_nothing = (loader.patch_proportions(regions, [allowed], 3, 300) for allowed in ({2}, ()))
    assert of_second[1] > 1.5 * of_nothing[1]
    assert 0 < of_second[1] < of_second[0] < 1


def test_volumes_and_ignored_voxels():
    loader = make()
    segmentations = [Cases().load_case(name)[1] for name in loader.full_cases]
    labels = np.maximum(np.stack(segmentations), 0)
    assert loader.volume_proportions([(0,), (1,), (2,)], None) == pytest.approx(
        [(labels == value).mean() for value in range(3)]
    )
    kept = labels[labels != 2]
    assert loader.volume_proportions([(0,), (1,), (7,)], 2) == pytest.approx(
        [(kept == 0).mean(), (kept == 1).mean(), 0]
    )
