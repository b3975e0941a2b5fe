"""nnU-Net's loader for fully and partially labelled cases in a fixed proportion."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from multiprocessing.sharedctypes import RawValue
from typing import Any

import numpy as np
from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from numpy.typing import NDArray

from nnunet_ext.random_states import kept_random_states


class MixedDataLoader(nnUNetDataLoader):
    """Stock loader that draws a given share of its samples from the partially labelled cases.

    A share that does not go evenly into the batch is kept on average. Where in the batch the partial samples stand is
    drawn too, as nnU-Net centres the last samples of a batch on foreground.

    Args:
        *args: of the stock loader.
        partial_cases: identifiers of the partially labelled cases; the others are fully labelled.
        **kwargs: of the stock loader.
    """

    def __init__(self, *args: Any, partial_cases: Collection[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.full_cases = [case for case in self.indices if case not in partial_cases]
        self.partial_cases = [case for case in self.indices if case in partial_cases]
        self._share = RawValue("d", 0.0)  # shared with the workers, which outlive a change of it

    @property
    def partial_share(self) -> float:
        """Share of partially labelled samples, at first 0; a change reaches the workers that are running."""
        return self._share.value

    @partial_share.setter
    def partial_share(self, share: float) -> None:
        self._share.value = share

    def get_indices(self) -> list[str]:
        """Draw the cases of a batch; without partial ones as stock nnU-Net does."""
        expected = self.batch_size * self.partial_share
        partial = int(expected)
        if expected > partial:
            partial += int(np.random.uniform() < expected - partial)  # noqa: NPY002 - nnU-Net's generator
        drawn = list(np.random.choice(self.full_cases, self.batch_size - partial))  # noqa: NPY002
        if partial:
            drawn = [*drawn, *np.random.choice(self.partial_cases, partial)]  # noqa: NPY002
            np.random.shuffle(drawn)  # noqa: NPY002
        return [str(case) for case in drawn]

    def patch_proportions(
        self,
        classes: Sequence[tuple[int, ...]],
        annotations: Sequence[Collection[int]],
        ignore_label: int | None,
        patches: int,
        seed: int = 0,
    ) -> NDArray[np.float64]:
        """Proportion of voxels of each class in patches of the fully labelled cases, drawn as partial ones are.

        nnU-Net centres some patches on a random class of the case, which in a partially labelled case can only be an
        annotated one. The patches here are centred by the same rule, as if only the labels of a random partial case
        had been annotated. They are not augmented. Draws from random numbers of its own.

        Args:
            classes: label values of each class or region.
            annotations: label values that were annotated, of each partial case.
            ignore_label: its voxels do not count.
            patches: how many.
            seed: of the random numbers.

        Returns:
            (classes,).
        """
        counts = _Counts(classes, ignore_label)
        final = np.array(self.final_patch_size)
        with kept_random_states():
            np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from the global generator
            for n in range(patches):
                case = np.random.choice(self.full_cases)  # noqa: NPY002
                allowed = annotations[np.random.randint(len(annotations))]  # noqa: NPY002
                _, segmentation, _, properties = self._data.load_case(case)
                locations = {
                    key: voxels
                    for key, voxels in properties["class_locations"].items()
                    if key == self.annotated_classes_key or not set(np.atleast_1d(key)).isdisjoint(allowed)
                }
                force = self.get_do_oversample(n % self.batch_size)
                lower, upper = self.get_bbox(segmentation.shape[1:], force, locations)
                # the middle of the larger patch that augmentation starts from
                start = [a + (b - a) // 2 - size // 2 for a, b, size in zip(lower, upper, final, strict=True)]
                box = [[a, a + int(size)] for a, size in zip(start, final, strict=True)]
                counts.add(crop_and_pad_nd(segmentation, box, -1))
        return counts.proportions()

    def volume_proportions(self, classes: Sequence[tuple[int, ...]], ignore_label: int | None) -> NDArray[np.float64]:
        """The same for the whole of the fully labelled cases, (classes,)."""
        counts = _Counts(classes, ignore_label)
        for case in self.full_cases:
            counts.add(np.asarray(self._data.load_case(case)[1][:]))
        return counts.proportions()


class _Counts:
    """Voxels by class."""

    def __init__(self, classes: Sequence[tuple[int, ...]], ignore_label: int | None) -> None:
        self.classes = classes
        self.ignore_label = ignore_label
        self.inside = np.zeros(len(classes))
        self.all = 0

    def add(self, segmentation: NDArray[np.integer]) -> None:
        # -1, outside of the image, is background to nnU-Net
        numbers = np.bincount(np.maximum(segmentation, 0).ravel())
        if self.ignore_label is not None:
            numbers[self.ignore_label :] = 0  # it is the highest value
        self.all += int(numbers.sum())
        self.inside += [sum(numbers[value] for value in members if value < len(numbers)) for members in self.classes]

    def proportions(self) -> NDArray[np.float64]:
        return self.inside / max(1, self.all)
