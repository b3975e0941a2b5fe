"""Two networks that teach each other on unlabelled images.

Source: Huang et al., "SD-Net: a semi-supervised double-cooperative network for liver segmentation from computed
tomography (CT) images", 2024.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from nnunetv2 import paths
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class, nnUNetBaseDataset
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import distributed as dist
from torch.nn.functional import interpolate

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.images import cases_in
from nnunet_ext.data.unlabelled.next_stage import Share, predict_for_next_stage
from nnunet_ext.data.unlabelled.ready import preprocessing_command, ready_cases
from nnunet_ext.data.unlabelled.store import RAW_FOLDER, store_folder
from nnunet_ext.data.unlabelled_loader import (
    JoinedBatches,
    OwnRandomNumbers,
    SwitchedLoader,
    UnlabelledDataLoader,
    stop,
)
from nnunet_ext.losses.dual import dice_of_sums, dice_sums, difference_loss, difference_region, sharpen, teaching_loss
from nnunet_ext.training.dual import NAMES, DualOptions, DualTrainer
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.schedules import first_epoch, ramp

UnlabelledLoss = Literal["squared error", "stock"]


@dataclass(frozen=True)
class SDNetOptions(DualOptions):
    """Options of :class:`nnUNetTrainerSDNet`."""

    difference_weight: float = option(
        1.0, "Weight of the squared error in the difference region.", "none printed (Eq. 7)", at_least=0
    )
    # The region weighs some fifty times as much and, of two classes that a network does not tell apart yet, always
    # pulls towards the one that is behind: so it goes back and forth between them and never learns to.
    difference_mean: Literal["all", "region"] = option(
        "all", "What n of Eq. 6 counts: all voxels, as in Eq. 8, or those of the difference region."
    )
    # From the beginning the networks, neither of which tells the classes apart then, take longer to learn to.
    difference_start: float = option(
        0.5, "Fraction of the run before the squared error comes in.", "0 (Eq. 7)", at_least=0, below=1
    )
    unlabelled_weight: float = option(
        1.0, "Weight of the unlabelled term; 0: whole batches are labelled.", "none printed (Eq. 8)", at_least=0
    )
    # From the beginning they cost half of the labelled samples while pseudo-labels are worth little.
    unlabelled_start: float = option(
        0.5,
        "Fraction of the run on whole batches of labelled samples, before unlabelled ones join.",
        "0 (Algorithm 1)",
        at_least=0,
        below=1,
    )
    unlabelled_ramp: float = option(
        0.0,
        "Fraction of the run over which the weight of the unlabelled term rises from 0 then.",
        "0",
        at_least=0,
        at_most=1,
    )
    temperature: float = option(0.1, "T, by which pseudo-labels are sharpened.", "0.1 (Algorithm 1)", above=0)
    unlabelled_loss: UnlabelledLoss = option(
        "squared error",
        "How a network is taught: squared error to the sharpened prediction, or the loss of labels on the hard one.",
        "squared error (Eq. 8)",
    )


class nnUNetTrainerSDNet(DualTrainer):
    """Eq. 7 and 8: the network of the plans and its residual counterpart learn from labels and from each other.

    Labelled samples: Dice + CE for both networks with deep supervision as in stock nnU-Net, and a squared error where
    their hard predictions differ. In the second part of the run half of every batch is unlabelled: there the network
    with the lower Dice loss on the labelled half gives the other one its sharpened prediction as target. Both terms of
    the paper act on the finest output alone, where the predictions are made that they compare.

    Not the paper's: optimiser and schedule, here nnU-Net's for both networks (the paper: SGD with momentum 0.9 and
    weight decay 0.0001, the learning rate 0.01 divided by 10 after every 200 of 1,200 iterations); that the mean of the
    logits of both networks predicts (the paper does not say which of them does; see ``inference``).
    """

    options_class: type[Options] = SDNetOptions
    options: SDNetOptions
    curve_titles: Mapping[str, str] = {
        "difference": "squared error where the networks differ",
        "difference region": "share of voxels where they differ",
        "first teaches": "share of steps in which the first teaches",
        "unlabelled": "unlabelled images",
    }

    dataloader_train: Any
    _resumed_unlabelled_states: dict[str, Any] | None = None
    _unlabelled: nnUNetBaseDataset | None = None
    _switched: SwitchedLoader | None = None
    _waiting: OwnRandomNumbers | None = None

    # ---- the batch and the images ----

    @property
    def has_unlabelled(self) -> bool:
        """Whether batches of this epoch have unlabelled samples."""
        return bool(self.options.unlabelled_weight) and self.current_epoch >= self._first_unlabelled_epoch

    @property
    def _first_unlabelled_epoch(self) -> int:
        return self._epoch_at(self.options.unlabelled_start)

    def _epoch_at(self, start: float) -> int:
        """The epoch in which what begins after a fraction of the run does, the last one at the latest."""
        return min(first_epoch(self.num_epochs, start), self.num_epochs - 1)

    @property
    def _unlabelled_join_now(self) -> bool:
        """Whether this epoch is the first one with them, after others: as it begins, also in a run that resumes here.

        So the latter draws the random numbers of a run that was not interrupted.
        """
        return self.has_unlabelled and 0 < self._first_unlabelled_epoch == self.current_epoch

    @property
    def labelled_batch_size(self) -> int:
        """Labelled samples in a batch: half of it, and the odd one."""
        return self.batch_size - self.unlabelled_batch_size

    @property
    def unlabelled_batch_size(self) -> int:
        """Unlabelled samples in a batch."""
        return self.batch_size // 2 if self.has_unlabelled else 0

    def check_supported(self) -> None:
        """The batch too."""
        name = type(self).__name__
        super().check_supported()
        size = self.configuration_manager.batch_size // (dist.get_world_size() if self.is_ddp else 1)
        if self.options.unlabelled_weight and size < 2:
            raise UserError(
                f"{name} fills half of a batch with unlabelled samples, for which {size} sample on a device is too "
                f"few: raise batch_size of configuration {self.configuration_name} in {self.plans_file}."
            )

    def unlabelled_dataset(self) -> nnUNetBaseDataset:
        """The preprocessed unlabelled images.

        Raises:
            UserError: they cannot be trained on (:func:`ready_cases`).
        """
        folder = store_folder(self.preprocessed_dataset_folder_base, self.configuration_manager.data_identifier)
        previous = self.folder_with_segs_from_previous_stage
        cases = ready_cases(
            folder,
            self.plans_manager,
            self.configuration_name,
            str(self.preprocessed_dataset_folder),
            self._raw_images(),
            previous,
        )
        return infer_dataset_class(str(folder))(str(folder), cases, folder_with_segs_from_previous_stage=previous)

    def _raw_images(self) -> set[str]:
        """Cases in ``imagesUn``; none where the raw dataset is not at hand, as on a machine that only trains."""
        folder = Path(paths.nnUNet_raw or os.devnull) / self.plans_manager.dataset_name / RAW_FOLDER
        return cases_in(folder, self.dataset_json["file_ending"])

    # ---- loaders ----

    def on_train_start(self) -> None:
        """Start the loaders, that of the unlabelled images too."""
        if self.options.unlabelled_weight:
            self._unlabelled = self.unlabelled_dataset()  # what is missing is said before anything is built
            self._warn_of_later_images(self._unlabelled)
            if not self.has_unlabelled:
                number = len(self._unlabelled.identifiers)
                self.print_to_log_file(f"{number} unlabelled images join in epoch {self._first_unlabelled_epoch}.")
        super().on_train_start()
        resumed = self._resumed_unlabelled_states
        # Not there if unlabelled_weight was set to 0 since the checkpoint was written.
        if resumed is not None and self.local_rank == 0 and isinstance(self.dataloader_train, JoinedBatches):
            self.dataloader_train.unlabelled.states = resumed
        self._resumed_unlabelled_states = None

    def get_dataloaders(self) -> tuple[Any, Any]:
        """The stock loaders; unlabelled patches join the batches of training.

        Worker processes of the unlabelled ones start here too, if these join later: none is forked in mid-run.
        """
        training, validation = super().get_dataloaders()
        if self.has_unlabelled and not self._unlabelled_join_now:
            training = JoinedBatches(training, self._start_unlabelled_loader(), self.labelled_batch_size)
        elif self.options.unlabelled_weight and get_allowed_n_proc_DA():
            self._waiting = self._start_unlabelled_loader()
        return training, validation

    def on_train_epoch_start(self) -> None:
        """Let unlabelled samples join when it is time."""
        super().on_train_epoch_start()
        if self._unlabelled_join_now:
            assert self._switched is not None
            self._switched.switch()
            unlabelled = self._waiting or self._start_unlabelled_loader()
            self._waiting = None
            self.dataloader_train = JoinedBatches(self.dataloader_train, unlabelled, self.labelled_batch_size)

    def make_training_loader(self, dataset: nnUNetBaseDataset) -> nnUNetDataLoader | SwitchedLoader:
        """Labelled patches: whole batches of them, and from when unlabelled ones join on, halves."""
        if self.has_unlabelled and not self._unlabelled_join_now:
            return self._loader_of_halves(dataset)
        whole: nnUNetDataLoader = super().make_training_loader(dataset)
        if not self.options.unlabelled_weight:
            return whole
        self._switched = SwitchedLoader(whole, self._loader_of_halves(dataset))
        return self._switched

    def _loader_of_halves(self, dataset: nnUNetBaseDataset) -> nnUNetDataLoader:
        """The labelled half of a batch, as much of it centred on foreground as in stock nnU-Net.

        nnU-Net centres the last third of a batch, which in half a batch may be none: here each labelled sample is
        centred with the probability that a sample has in a whole batch.
        """
        sampling = self.sampling()
        if not self.probabilistic_oversampling:
            centred = self.batch_size - round(self.batch_size * (1 - self.oversample_foreground_percent))
            sampling = {
                "oversample_foreground_percent": centred / self.batch_size,
                "probabilistic_oversampling": True,
            }
        return self.augmented_loader(nnUNetDataLoader, dataset, self.batch_size - self.batch_size // 2, **sampling)

    def training_workers(self, allowed: int) -> int:
        """All of them, if unlabelled patches join later; else the other half loads those."""
        return max(1, allowed - allowed // 2) if allowed and self.has_unlabelled else allowed

    def _warn_of_later_images(self, dataset: nnUNetBaseDataset) -> None:
        images = self._raw_images()
        new = sorted(images - set(dataset.identifiers))
        if new:
            command = preprocessing_command(self.plans_manager, self.configuration_name)
            self.print_to_log_file(
                f"WARNING: {len(new)} image(s) of {RAW_FOLDER}, {new[0]} for one, are not preprocessed and not used: "
                f"to have them, run {command}, and this again."
            )
        if not images:
            self.print_to_log_file(f"There are no images in {RAW_FOLDER} to compare the preprocessed ones with.")

    def _start_unlabelled_loader(self) -> OwnRandomNumbers:
        dataset = self._unlabelled or self.unlabelled_dataset()
        number = self.batch_size // 2
        self.print_to_log_file(
            f"{len(dataset.identifiers)} unlabelled images; a batch with them has {self.batch_size - number} labelled "
            f"and {number} unlabelled sample(s)."
        )
        loader = self.augmented_loader(UnlabelledDataLoader, dataset, number, with_target=False)
        workers = get_allowed_n_proc_DA()
        started = self.start_loader(loader, max(1, workers // 2) if workers else 0, max(6, workers // 2))
        # Another beginning than that of the labelled patches: else both would be cut and turned alike. Of NumPy's state
        # too, which in a run that nobody seeded is another one each time, as torch.initial_seed() is not.
        _, words, position, *_ = np.random.get_state()  # noqa: NPY002 - nnU-Net's loaders draw from it
        entropy = [torch.initial_seed() % 2**63, self.local_rank, position, *map(int, words)]
        seed = np.random.SeedSequence(entropy)
        apart = OwnRandomNumbers(started, int(seed.generate_state(1)[0]))
        next(apart)
        return apart

    def on_train_end(self) -> None:
        """Stop all loaders."""
        super().on_train_end()
        if isinstance(self.dataloader_train, JoinedBatches):
            self.dataloader_train.finish()
        if self._waiting is not None:
            stop(self._waiting.loader)

    # ---- the next stage of a cascade ----

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """The stock validation; for a next stage unlabelled images are predicted too."""
        super().perform_actual_validation(save_probabilities)
        stages = self.configuration_manager.next_stage_names or []
        if not stages or not self.options.unlabelled_weight:
            return
        try:
            dataset = self.unlabelled_dataset()
        except UserError as error:  # this stage is trained and validated: only what follows it needs them
            self.print_to_log_file(
                f"WARNING: no unlabelled images are predicted for the next stage. {error} Then run this training again "
                "with --val."
            )
            return
        self._warn_of_later_images(dataset)
        for stage in stages:
            self._predict_unlabelled(dataset, stage)

    def _predict_unlabelled(self, dataset: nnUNetBaseDataset, stage: str) -> None:
        self.print_to_log_file(f"predicting {len(dataset.identifiers)} unlabelled images for {stage}")
        predictor = nnUNetPredictor(
            perform_everything_on_device=self.device.type == "cuda", device=self.device, allow_tqdm=False
        )
        self.set_deep_supervision_enabled(False)
        with self.combined():
            predictor.manual_initialization(
                self.network,
                self.plans_manager,
                self.configuration_manager,
                None,
                self.dataset_json,
                type(self).__name__,
                self.inference_allowed_mirroring_axes,
            )
            advice = predict_for_next_stage(
                predictor.predict_sliding_window_return_logits,
                dataset,
                self.plans_manager,
                (self.configuration_name, stage),
                self.dataset_json,
                Path(self.preprocessed_dataset_folder_base),
                Path(self.output_folder_base) / "predicted_next_stage" / stage,
                self.print_to_log_file,
                Share(self.local_rank, dist.get_world_size(), dist.barrier) if self.is_ddp else Share(),
            )
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        compute_gaussian.cache_clear()
        if advice:
            self.print_to_log_file(f"WARNING: {advice}")

    # ---- training ----

    @property
    def difference_factor(self) -> float:
        """Weight of the squared error in the difference region in this epoch."""
        return self.options.difference_weight * (self.current_epoch >= self._epoch_at(self.options.difference_start))

    @property
    def unlabelled_factor(self) -> float:
        """Weight of the unlabelled term in this epoch."""
        return self.options.unlabelled_weight * ramp(
            self.current_epoch - self._first_unlabelled_epoch, self.num_epochs, self.options.unlabelled_ramp
        )

    def simulated_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """With unlabelled samples in the second half."""
        if self.has_unlabelled:
            labelled, targets = self.labelled_batch_size, batch["target"]
            batch["unlabelled"] = torch.zeros_like(batch["data"][labelled:])
            batch["data"] = torch.zeros_like(batch["data"][:labelled])
            one = not isinstance(targets, list)
            kept = [torch.zeros_like(target[:labelled]) for target in ([targets] if one else targets)]
            batch |= {"target": kept[0] if one else kept, "keys": batch["keys"][:labelled]}
        return batch

    def train_step(self, batch: dict) -> dict:
        """One step of each network down Eq. 7 and, for the one that is taught, Eq. 8 (Algorithm 1)."""
        data, target = self.to_device(batch)
        labelled = len(data)
        if self.has_unlabelled:
            data = torch.cat([data, batch["unlabelled"].to(self.device, non_blocking=True)])
        layout = self.label_layout
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = [self._outputs(each) for each in self.network(data)]
            basic = [self._basic(scales, target, labelled) for scales in outputs]
        finest = [scales[0] for scales in outputs]
        with_label = [logits[:labelled] for logits in finest]
        truth, valid = layout.maps(
            target[0] if self.enable_deep_supervision else target, finest[0].shape[1], torch.bool
        )

        difference = difference_region(with_label[0].detach(), with_label[1].detach(), layout)
        difference = difference if valid is None else difference & valid
        counted = valid if self.options.difference_mean == "all" else difference
        mistakes = [difference_loss(logits, truth, difference, layout, counted) for logits in with_label]
        dice = self._dice_losses(with_label, truth, valid)
        first_teaches = dice[0] < dice[1]
        terms: dict[str, torch.Tensor] = {}
        for i, name in enumerate(NAMES):
            terms[f"Dice loss: {name}"] = dice[i]
            terms[f"Dice + CE: {name}"] = basic[i]
            terms[f"difference: {name}"] = mistakes[i]
        terms["difference region"] = difference.float().mean()
        losses = [
            b + self.difference_factor * m + self.added_terms([scale[:labelled] for scale in scales], target)
            for b, m, scales in zip(basic, mistakes, outputs, strict=True)
        ]
        if self.has_unlabelled:
            without = [[scale[labelled:] for scale in scales] for scales in outputs]
            teacher = torch.where(first_teaches, without[0][0], without[1][0]).detach()
            # Who is taught is decided on the device: the host need not wait for it.
            taught = [(~first_teaches).float(), first_teaches.float()]
            pseudo_label = self.pseudo_label(teacher, [each.shape[2:] for each in without[0]])
            lessons = [taught[i] * self.lesson(without[i], pseudo_label) for i in range(2)]
            losses = [loss + self.unlabelled_factor * lesson for loss, lesson in zip(losses, lessons, strict=True)]
            terms["first teaches"] = first_teaches.float()
            terms["unlabelled"] = lessons[0] + lessons[1]
        # The networks share no parameter: each gets the gradient of its own loss.
        self.network_step(losses[0] + losses[1])
        return self.step_output((losses[0].detach() + losses[1].detach()) / 2, terms)

    def _outputs(self, outputs: Any) -> list[torch.Tensor]:
        """Outputs from the finest on, that in float32: there the gradients of several terms are summed."""
        outputs = outputs if self.enable_deep_supervision else [outputs]
        return [outputs[0].float(), *outputs[1:]]

    def _basic(self, outputs: list[torch.Tensor], target: Any, labelled: int) -> torch.Tensor:
        """Dice + CE of the labelled samples, with deep supervision (Eq. 4 and 5 as nnU-Net has them)."""
        chosen = [output[:labelled] for output in outputs]
        return self.loss(chosen, target) if self.enable_deep_supervision else self.loss(chosen[0], target)

    def pseudo_label(self, teacher: torch.Tensor, sizes: Sequence[torch.Size]) -> Any:
        """What the other network is taught (Algorithm 1, or as ``unlabelled_loss`` says).

        Args:
            teacher: finest logits, (B, C, *spatial), without a gradient.
            sizes: of the outputs, from the finest on.

        Returns:
            The sharpened prediction, (B, C, *spatial), or the hard one as targets that nnU-Net's loss takes.
        """
        layout = self.label_layout
        if self.options.unlabelled_loss == "squared error":
            return sharpen(teacher, self.options.temperature, layout)
        hard = layout.hard(teacher)
        if layout.regions and layout.ignore_label is not None:
            hard = torch.cat([hard, torch.zeros_like(hard[:, :1])], 1)  # the mask of ignored voxels: none
        targets = [interpolate(hard.float(), size, mode="nearest-exact") for size in sizes]
        return targets if self.enable_deep_supervision else targets[0]

    def lesson(self, student: list[torch.Tensor], pseudo_label: Any) -> torch.Tensor:
        """Loss of a network that is taught (Eq. 8, or as ``unlabelled_loss`` says), a scalar.

        Args:
            student: its logits of the unlabelled samples, from the finest output on, each (B, C, *spatial).
            pseudo_label: of :meth:`pseudo_label`.
        """
        if self.options.unlabelled_loss == "squared error":
            return teaching_loss(student[0], pseudo_label, self.label_layout)
        return self._basic(student, pseudo_label, len(student[0]))

    @torch.no_grad()
    def _dice_losses(self, logits: list[torch.Tensor], truth: torch.Tensor, valid: torch.Tensor | None) -> torch.Tensor:
        """The two Dice losses of Algorithm 1, (2,), on all devices those of the whole batch."""
        sums = torch.stack([dice_sums(each, truth, valid, self.label_layout) for each in logits])
        if self.is_ddp:
            dist.all_reduce(sums)
        return torch.stack([dice_of_sums(each) for each in sums])

    # ---- checkpoints ----

    def extension_state(self) -> dict[str, Any]:
        """With what the unlabelled loader goes on from."""
        state = super().extension_state()
        if isinstance(self.dataloader_train, JoinedBatches):
            state["unlabelled_random_states"] = self.dataloader_train.unlabelled.states
        return state

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """With what :meth:`extension_state` adds."""
        super().load_extension_state(state)
        states = state.get("unlabelled_random_states")
        if isinstance(states, tuple):  # of an earlier version
            states = dict(zip(("python", "numpy", "torch"), states, strict=True))
        self._resumed_unlabelled_states = states


class nnUNetTrainerSDNetLabelled(nnUNetTrainerSDNet):
    """SD-Net without the unlabelled term: two networks and the difference region, on whole labelled batches."""

    unlabelled_weight = 0.0
