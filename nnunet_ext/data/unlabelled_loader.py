"""nnU-Net's loader for images without labels, and how its batches join those of labelled images."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.sharedctypes import RawValue
from typing import Any

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.random_states import kept_random_states, random_states, restore_random_states, seed_loaders


class UnlabelledDataLoader(nnUNetDataLoader):
    """Stock loader whose patches lie anywhere: there is no foreground to centre them on.

    Args:
        *args: of the stock loader.
        **kwargs: of the stock loader, but for those on foreground sampling.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, oversample_foreground_percent=0.0, probabilistic_oversampling=False, **kwargs)
        self.has_ignore = False  # else it would look for voxels that are not ignored


class SwitchedLoader(Iterator[dict[str, Any]]):
    """One loader, and from :meth:`switch` on another one; the change reaches the workers that are running.

    So no worker process is forked in the middle of a run, when the threads of the device are at work.

    Args:
        before: the loader at first.
        after: the other.
    """

    def __init__(self, before: nnUNetDataLoader, after: nnUNetDataLoader) -> None:
        self.loaders = (before, after)
        self._switched = RawValue("b", 0)  # shared with the workers

    def switch(self) -> None:
        """From now on draw from the other loader; what workers have drawn before is still to come."""
        self._switched.value = 1

    def set_thread_id(self, thread_id: int) -> None:
        """Tell both loaders which worker they are in."""
        for loader in self.loaders:
            loader.set_thread_id(thread_id)

    def __next__(self) -> dict[str, Any]:
        return next(self.loaders[self._switched.value])


class OwnRandomNumbers(Iterator[dict[str, Any]]):
    """A loader in this process that draws its random numbers apart, so that the others draw what they would without it.

    Args:
        loader: the loader.
        seed: of its random numbers, at least 0 and below 2**32.

    Attributes:
        states: of the random number generators, with which its next batch begins.
    """

    def __init__(self, loader: Iterator[dict[str, Any]], seed: int) -> None:
        self.loader = loader
        with kept_random_states():
            seed_loaders(seed)
            self.states = random_states()

    def __next__(self) -> dict[str, Any]:
        with kept_random_states():
            restore_random_states(self.states)
            try:
                return next(self.loader)
            finally:
                self.states = random_states()


class JoinedBatches(Iterator[dict[str, Any]]):
    """Batches of labelled samples as nnU-Net makes them, with images of unlabelled ones under ``"unlabelled"``.

    Args:
        labelled: loader of the labelled samples.
        unlabelled: loader of the others.
        labelled_size: labelled samples in a batch; larger batches, drawn before unlabelled ones joined, are left out.
    """

    def __init__(self, labelled: Iterator[dict[str, Any]], unlabelled: OwnRandomNumbers, labelled_size: int) -> None:
        self.labelled = labelled
        self.unlabelled = unlabelled
        self.labelled_size = labelled_size

    def __next__(self) -> dict[str, Any]:
        batch = next(self.labelled)
        while len(batch["data"]) > self.labelled_size:
            batch = next(self.labelled)
        return {**batch, "unlabelled": next(self.unlabelled)["data"]}

    def finish(self) -> None:
        """Stop the worker processes, if there are any."""
        for loader in (self.labelled, self.unlabelled.loader):
            stop(loader)


def stop(loader: Iterator[dict[str, Any]]) -> None:
    """Stop the worker processes of a loader, if it has any."""
    if isinstance(loader, NonDetMultiThreadedAugmenter):
        loader._finish()
