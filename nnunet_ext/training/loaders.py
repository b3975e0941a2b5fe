"""The data loaders of stock nnU-Net with one hook: which loader draws the training patches.

nnU-Net makes its loaders in one long method; what a trainer with loaders of its own has to repeat of it stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from nnunet_ext.training.base import ExtendedTrainer

Loader = TypeVar("Loader", bound=nnUNetDataLoader)


class OwnLoadersTrainer(ExtendedTrainer):
    """Trainer with the stock loaders, but for what :meth:`make_training_loader` makes."""

    # Rotation, dummy 2D, size of the patch before augmentation, mirrored axes: what stock nnU-Net chose for this run.
    _augmentation: tuple[Any, bool, Any, tuple[int, ...]]

    # ---- what a derived trainer overrides ----

    def make_training_loader(self, dataset: nnUNetBaseDataset) -> nnUNetDataLoader:
        """The loader of training patches, made with :meth:`augmented_loader`."""
        return self.augmented_loader(nnUNetDataLoader, dataset, self.batch_size, **self.sampling())

    def training_workers(self, allowed: int) -> int:
        """How many of the allowed worker processes load training patches."""
        return allowed

    # ---- building blocks for derived trainers ----

    def sampling(self) -> dict[str, Any]:
        """The stock arguments on foreground sampling."""
        return {
            "oversample_foreground_percent": self.oversample_foreground_percent,
            "probabilistic_oversampling": self.probabilistic_oversampling,
        }

    def augmented_loader(
        self,
        loader: type[Loader],
        dataset: nnUNetBaseDataset,
        batch_size: int,
        with_target: bool = True,
        **options: Any,
    ) -> Loader:
        """A loader of training patches with the stock augmentation.

        Args:
            loader: its class.
            dataset: the cases.
            batch_size: samples in a batch.
            with_target: make the target of every output scale; without, the label map stays as it is.
            **options: further arguments of the loader.
        """
        patch = self.configuration_manager.patch_size
        return loader(
            dataset,
            batch_size,
            self._augmentation[2],
            patch,
            self.label_manager,
            transforms=self._training_transforms(with_target),
            **options,
        )

    def start_loader(self, loader: Iterator[dict[str, Any]], workers: int, cached: int) -> Iterator[dict[str, Any]]:
        """Run a loader in worker processes, or in this one if there are none, as stock nnU-Net does."""
        if workers == 0:
            return SingleThreadedAugmenter(loader, None)
        return NonDetMultiThreadedAugmenter(
            loader, None, workers, cached, seeds=None, pin_memory=self.device.type == "cuda", wait_time=0.002
        )

    def start_training_loader(self, loader: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """:meth:`start_loader` with the workers for training patches."""
        allowed = get_allowed_n_proc_DA()
        return self.start_loader(loader, self.training_workers(allowed), max(6, allowed // 2))

    # ---- nnU-Net's hooks ----

    def get_dataloaders(self) -> tuple[Any, Any]:
        """The stock loaders, but that of training is made by :meth:`make_training_loader`."""
        self._augmentation = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        patch = self.configuration_manager.patch_size
        training, validation = self.get_tr_and_val_datasets()
        training_loader = self.make_training_loader(training)
        validation_loader = nnUNetDataLoader(
            validation,
            self.batch_size,
            patch,
            patch,
            self.label_manager,
            transforms=self.get_validation_transforms(self._get_deep_supervision_scales(), **self._target_arguments()),
            **self.sampling(),
        )
        allowed = get_allowed_n_proc_DA()
        loaders = (
            self.start_training_loader(training_loader),
            self.start_loader(validation_loader, max(1, allowed // 2) if allowed else 0, max(3, allowed // 4)),
        )
        for loader in loaders:
            next(loader)
        return loaders

    def _target_arguments(self, with_target: bool = True) -> dict[str, Any]:
        manager = self.label_manager
        return {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": manager.foreground_labels,
            "regions": manager.foreground_regions if manager.has_regions and with_target else None,
            "ignore_label": manager.ignore_label,
        }

    def _training_transforms(self, with_target: bool) -> BasicTransform:
        rotation, dummy_2d, _, mirror_axes = self._augmentation
        self.augments_targets = with_target
        try:
            return self.get_training_transforms(
                self.configuration_manager.patch_size,
                rotation,
                self._get_deep_supervision_scales() if with_target else None,
                mirror_axes,
                dummy_2d,
                use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
                **self._target_arguments(with_target),
            )
        finally:
            self.augments_targets = True
