"""Training on fully and partially labelled cases of one dataset: which is which, how they are mixed and validated."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import distributed as dist

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.label_sets import KEY, annotated_labels, foreground_names, label_values
from nnunet_ext.data.mixed_loader import MixedDataLoader
from nnunet_ext.training.loaders import OwnLoadersTrainer
from nnunet_ext.training.options import Options, option


@dataclass(frozen=True)
class PartialLabelOptions(Options):
    """Options of :class:`PartialLabelTrainer`."""

    partial_share: float = option(
        0.25,
        "Share of partially labelled samples in a mixed batch, on average.",
        "full : partial = 3 : 1 (4.1)",
        above=0,
        below=1,
    )


class PartialLabelTrainer(OwnLoadersTrainer):
    """Knows the annotated labels of every case, mixes cases in the batch and validates on fully labelled ones.

    The labels come from ``dataset.json["annotated_labels"]``; a batch tells its cases by ``batch["keys"]``.
    """

    options_class: type[Options] = PartialLabelOptions
    options: PartialLabelOptions

    _annotated: dict[str, frozenset[str]] | None = None
    _loader: MixedDataLoader | None = None

    # ---- for derived trainers ----

    @property
    def annotated(self) -> dict[str, frozenset[str]]:
        """Names of the annotated labels, by case of this fold."""
        if self._annotated is None:
            training, validation = super().do_split()
            self._annotated = annotated_labels(
                self.dataset_json, [*training, *validation], f"{self.preprocessed_dataset_folder_base}/dataset.json"
            )
        return self._annotated

    def is_partial(self, case: str) -> bool:
        """Whether some label was not annotated in a case."""
        return len(self.annotated[case]) < len(foreground_names(self.dataset_json["labels"]))

    def class_names(self) -> list[str]:
        """Names of the network's outputs: the background, unless there are regions, and the labels."""
        names = foreground_names(self.dataset_json["labels"])
        return names if self.label_manager.has_regions else ["background", *names]

    def class_values(self) -> list[tuple[int, ...]]:
        """Values of the network's outputs in a label map."""
        labels = self.dataset_json["labels"]
        return [(0,) if name == "background" else label_values(labels[name]) for name in self.class_names()]

    def mix(self) -> None:
        """Let partially labelled samples into the batches from now on."""
        if self._loader is not None:
            self._loader.partial_share = self.options.partial_share

    def mixes(self) -> bool:
        """Whether the loader is to mix from its first batch on; asked when it is made."""
        return True

    # ---- nnU-Net's hooks ----

    def do_split(self) -> tuple[list[str], list[str]]:
        """The split of stock nnU-Net without partially labelled cases to validate on."""
        training, validation = super().do_split()
        full = [case for case in validation if not self.is_partial(case)]
        if len(full) < len(validation):
            self.print_to_log_file(
                f"{len(validation) - len(full)} of {len(validation)} validation cases of fold {self.fold} are "
                "partially labelled and are left out; splits_final.json could give them to training."
            )
        return training, full

    def check_supported(self) -> None:
        """The batch, the annotations and the fold must allow for the mix."""
        super().check_supported()
        name, folder = type(self).__name__, self.preprocessed_dataset_folder_base
        size = self.configuration_manager.batch_size // (dist.get_world_size() if self.is_ddp else 1)
        share = self.options.partial_share
        if math.ceil(size * share) >= size:
            raise UserError(
                f"{name} makes {share:g} of a batch partially and the rest fully labelled, for which "
                f"{size} sample(s) on a device are too few: raise batch_size of configuration "
                f"{self.configuration_name} in {folder}/{self.plans_manager.plans_name}.json."
            )
        if KEY not in self.dataset_json:
            raise UserError(
                f"{folder}/dataset.json has no {KEY}, so that all cases count as fully labelled: make the dataset with "
                "nnunet-ext convert union, write {case: [labels]} there, or use nnUNetTrainer."
            )
        training, validation = self.do_split()
        partial = sum(self.is_partial(case) for case in training)
        if partial == len(training) or not validation:
            raise UserError(
                f"Fold {self.fold} of {folder}/splits_final.json has no fully labelled case to "
                f"{'train' if partial == len(training) else 'validate'} on, and {name} needs both: mend the fold."
            )
        lacking = self.without_prediction(training)
        if lacking:
            raise UserError(
                f"{self.folder_with_segs_from_previous_stage} has no prediction of {lacking[0]} ({len(lacking)} of "
                f"{len(training)} training cases lack one): nnU-Net predicts the cases that some fold validates on, "
                f"which partially labelled ones are not, so train {name} with 3d_fullres or 3d_lowres."
            )
        if not partial:
            raise UserError(
                f"Fold {self.fold} of {folder}/splits_final.json has no partially labelled case to train on: mend the "
                "fold, or use nnUNetTrainer."
            )

    def make_training_loader(self, dataset: nnUNetBaseDataset) -> MixedDataLoader:
        """A loader that mixes fully and partially labelled cases."""
        self._loader = self.augmented_loader(
            MixedDataLoader,
            dataset,
            self.batch_size,
            partial_cases={case for case in dataset.identifiers if self.is_partial(case)},
            **self.sampling(),
        )
        if self.mixes():
            self.mix()
        return self._loader
