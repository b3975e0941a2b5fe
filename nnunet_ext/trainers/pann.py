"""Fully and partially labelled cases together, with a prior on the proportions of the organs.

Source: Zhou et al., "Prior-aware Neural Network for partially-supervised multi-organ segmentation" (PaNN), ICCV 2019.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from torch import distributed as dist
from torch import nn
from torch.optim import Optimizer

from nnunet_ext.core.label_sets import KEY, foreground_names, label_values
from nnunet_ext.losses.partial import complete_target, pseudo_labels
from nnunet_ext.losses.prior import DualStep, DualVariables, mean_prediction
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.partial_labels import PartialLabelOptions, PartialLabelTrainer
from nnunet_ext.training.region_loss import RegionLoss, RegionLossOptions, RegionLossTrainer
from nnunet_ext.training.schedules import RestartingPolyLR, first_epoch
from nnunet_ext.training.teacher import Teacher

PriorSampling = Literal["patches", "volumes"]


@dataclass(frozen=True)
class PaNNOptions(RegionLossOptions, PartialLabelOptions):
    """Options of :class:`nnUNetTrainerPaNN`."""

    region_loss: RegionLoss = option(
        "stock", "J_L and J_P: nnU-Net's Dice + CE, its Dice alone, or cross-entropy alone.", "cross_entropy (Eq. 4, 5)"
    )
    partial_weight: float = option(1.0, "lambda1, weight of J_P.", "1 (Eq. 3)", at_least=0)
    prior_weight: float = option(0.1, "lambda2, weight of J_C.", "0.1 (Eq. 3)", at_least=0)
    first_stage: float | None = option(
        None,
        "Fraction of the run that stage 1 takes; none: the paper's.",
        "40K of 70K iterations in 2D, 80K of 180K in 3D (4.1)",
        at_least=0,
        at_most=1,
    )
    refresh_interval: float | None = option(
        None,
        "Fraction of the run after which the teacher is made anew; none: the paper's.",
        "every 10K of those iterations (4.1)",
        above=0,
        at_most=1,
    )
    # The paper's rate is constant in each stage and ours decays; nnU-Net's own schedule is what stock has.
    restart_learning_rate: bool = option(False, "Whether the decay begins anew in stage 2.", "true (4.1)")
    restart_factor: float | None = option(
        None,
        "Of the learning rate from the restart on; none: the paper's ratio.",
        "1e-5 after 2e-5 in 2D, after 5e-4 in 3D (4.1)",
        above=0,
    )
    dual_rate: float = option(2.0, "Learning rate of the ascent, relative to that of the descent.", "2 (4.1)", above=0)
    # In the plain step the duals of small organs do not move; see DualVariables.
    dual_step: DualStep = option(
        "scaled", "How the duals ascend: scaled by the curvature, or Eq. 9 to the letter.", "plain (Eq. 9)"
    )
    prior_sampling: PriorSampling = option(
        "patches", "q from patches drawn as those of training, or from the whole volumes of the fully labelled cases."
    )
    prior_patches: int = option(500, "Number of patches that q is taken from.", at_least=1)


class nnUNetTrainerPaNN(RegionLossTrainer, PartialLabelTrainer):
    """J_L + lambda1 * J_P + lambda2 * J_C (Eq. 3) on one dataset of fully and partially labelled cases.

    Stage 1 is stock nnU-Net on the fully labelled cases. In stage 2 a quarter of the samples is partially labelled: a
    teacher of the network completes their background with the organs that were not annotated (J_P), and their mean
    prediction is drawn to the proportions of the organs in the fully labelled cases (J_C). Inference is that of stock
    nnU-Net, with the same network.

    Not the paper's: pseudo-labels are made in each step, by the frozen copy, of the augmented patch that the network
    sees; the paper makes them of the images, when it makes the copy. Network, optimiser, schedule and augmentation are
    nnU-Net's.
    """

    options_class: type[Options] = PaNNOptions
    options: PaNNOptions
    curve_titles: Mapping[str, str] = {
        "J_L": "fully labelled cases (J_L)",
        "J_P": "partially labelled cases (J_P)",
        "J_C": "prior (J_C)",
        "pseudo-labels": "share of pseudo-labelled voxels",
    }

    _teacher: Teacher | None = None
    _duals: DualVariables | None = None

    # ---- schedule ----

    @property
    def in_second_stage(self) -> bool:
        """Whether this epoch belongs to stage 2."""
        return self.current_epoch >= self._second_stage

    @property
    def _second_stage(self) -> int:
        """First epoch of stage 2."""
        first, second = self._thousands_of_iterations()
        return first_epoch(
            self.num_epochs, first / (first + second) if self.options.first_stage is None else self.options.first_stage
        )

    @property
    def _refresh_is_due(self) -> bool:
        """Whether the teacher is to be made anew in this epoch of stage 2."""
        interval = (
            10 / sum(self._thousands_of_iterations())
            if self.options.refresh_interval is None
            else self.options.refresh_interval
        )
        return (self.current_epoch - self._second_stage) % max(1, round(interval * self.num_epochs)) == 0

    def _thousands_of_iterations(self) -> tuple[int, int]:
        """M1 and M2 of section 4.1."""
        return (40, 30) if len(self.configuration_manager.patch_size) == 2 else (80, 100)

    def mixes(self) -> bool:
        """In stage 2."""
        return self.in_second_stage

    # ---- nnU-Net's hooks ----

    def _build_loss(self) -> nn.Module:
        """The region loss; its Dice is that of each device."""
        loss = super()._build_loss()
        dice = getattr(loss.loss if isinstance(loss, DeepSupervisionWrapper) else loss, "dc", None)
        if dice is not None:
            # Batch Dice over all GPUs would wait for ever for one that has no partial sample in this step.
            getattr(dice, "_orig_mod", dice).ddp = False
        return loss

    def configure_optimizers(self) -> tuple[Optimizer, Any]:
        """The stock optimiser and schedule, begun anew in stage 2 where asked for."""
        optimizer, scheduler = super().configure_optimizers()
        if self.options.restart_learning_rate and self._second_stage < self.num_epochs:
            factor = self.options.restart_factor
            if factor is None:
                factor = 1e-5 / (2e-5 if len(self.configuration_manager.patch_size) == 2 else 5e-4)
            scheduler = RestartingPolyLR(optimizer, self.initial_lr, self.num_epochs, self._second_stage, factor)
        return optimizer, scheduler

    def on_train_epoch_start(self) -> None:
        """In stage 2 mix the batches, and make the teacher anew where it is due."""
        super().on_train_epoch_start()
        if not self.in_second_stage:
            return
        if self._teacher is not None and self._refresh_is_due:
            self._teacher.refresh(self.network)
        self.prepare_second_stage()

    def prepare_second_stage(self) -> None:
        """Mix the batches from now on; make the teacher, the prior and the duals if they are not there."""
        self.mix()
        if self._teacher is None:
            self._teacher = Teacher(self.network, self._do_i_compile())
        if self._duals is None and self.options.prior_weight:
            prior = self.estimate_prior()
            self._duals = DualVariables(prior, self.options.dual_step)
            shown = ", ".join(f"{name} {q:.3g}" for name, q in zip(self.class_names(), prior.tolist(), strict=True))
            self.print_to_log_file(f"Prior, from {self.options.prior_sampling} of the fully labelled cases: {shown}")

    def train_step(self, batch: dict) -> dict:
        """In stage 2 a step of the duals up Eq. 9, then one of the network down Eq. 3 (Algorithm 1)."""
        data, target = self.to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        if not self.in_second_stage:
            with self.autocast():
                outputs = self.network(data)
                supervised = self.loss(outputs, target)
            loss = supervised + self.added_terms(outputs, target)
            self.network_step(loss)
            return self.step_output(loss, {"J_L": supervised})

        partial_rows = [self.is_partial(case) for case in batch["keys"]]
        rows = range(len(partial_rows))
        full, partial = (
            self.sent_to_device([i for i in rows if partial_rows[i] == choice], torch.long) for choice in (False, True)
        )
        share = len(partial) / len(partial_rows)
        targets = target if self.enable_deep_supervision else [target]
        terms = dict.fromkeys(self._terms(), torch.full((), math.nan, device=self.device))
        completed = [t[partial] for t in targets]
        if share:
            cases = [case for case, chosen in zip(batch["keys"], partial_rows, strict=True) if chosen]
            completed, terms["pseudo-labels"] = self._complete(data[partial], completed, cases)
        # N of Eq. 4 and 5 is taken to be one and the same: every sample of a batch weighs alike.
        loss = torch.zeros((), device=self.device)
        with self.autocast():
            outputs = self.network(data)
            outputs = outputs if self.enable_deep_supervision else [outputs]
            # The gradients of all terms are summed in float32 before they go back into half precision.
            outputs = [outputs[0].float(), *outputs[1:]]
            if share < 1:
                full_outputs, full_targets = [o[full] for o in outputs], [t[full] for t in targets]
                terms["J_L"] = self._supervised(full_outputs, full_targets)
                loss = loss + (1 - share) * terms["J_L"]
            partial_outputs = [o[partial] for o in outputs]
            if share:
                terms["J_P"] = self._supervised(partial_outputs, completed)
                loss = loss + self.options.partial_weight * share * terms["J_P"]
        if share < 1:  # of true labels alone
            loss = loss + (1 - share) * self.added_terms(full_outputs, full_targets, full)
        if self._duals is not None:
            mean = self._mean_prediction(partial_outputs[0], completed[0])
            self._ascend(self._duals, mean.detach(), len(partial))
            if share:
                terms["J_C"] = self._duals.loss(mean)
                # Batches hold more and fewer partial samples than their share: lambda2 on average.
                loss = loss + self.options.prior_weight * share / self.options.partial_share * terms["J_C"]
            for name, predicted, prior in zip(self.class_names(), mean, self._duals.prior, strict=True):
                if f"{name}: prior" in terms:
                    terms[f"{name}: prior"] = prior
                    terms[f"{name}: predicted"] = predicted if share else terms[f"{name}: predicted"]
        self.network_step(loss)
        return self.step_output(loss, terms)

    def prepare_simulation(self) -> None:
        """One fully and one partially labelled case, whatever the dataset holds."""
        names = frozenset(foreground_names(self.dataset_json["labels"]))
        self._annotated = {"partial": frozenset(), "full": names}
        self.dataset_json.setdefault(KEY, {})
        self.do_split = lambda: ([*self.annotated], ["full"])  # type: ignore[method-assign]

    def simulated_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Mixed, with the teacher and the duals of stage 2."""
        size = len(batch["keys"])
        partial = max(1, round(size * self.options.partial_share))
        batch["keys"] = ["partial"] * partial + ["full"] * (size - partial)
        if self._teacher is None:
            self._teacher = Teacher(self.network, self._do_i_compile())
            if self.options.prior_weight:
                heads = self.label_manager.num_segmentation_heads
                self._duals = DualVariables(torch.full((heads,), 1 / heads), self.options.dual_step)
        return batch

    # ---- the terms ----

    def _terms(self) -> list[str]:
        """Names of the curves of stage 2."""
        if not self.options.prior_weight:
            return ["J_L", "J_P", "pseudo-labels"]
        organs = [name for name in self.class_names() if name != "background"]
        proportions = [f"{name}: {kind}" for name in organs for kind in ("predicted", "prior")]
        return ["J_L", "J_P", "J_C", "pseudo-labels", *proportions]

    def _complete(
        self, data: torch.Tensor, targets: Sequence[torch.Tensor], cases: Sequence[str]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Targets of partial samples with pseudo-labels in their background, and the share of voxels these changed."""
        assert self._teacher is not None
        names, layout = self.class_names(), self.label_layout
        annotated = self.sent_to_device(
            [[name in self.annotated[case] for name in names] for case in cases], torch.bool
        )
        with self.autocast():
            logits = self._teacher(data)
        pseudo = pseudo_labels(logits, annotated, layout)
        completed = [complete_target(target, pseudo, layout) for target in targets]
        return completed, (completed[0] != targets[0]).any(1).float().mean()

    def _supervised(self, outputs: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        """J_L or J_P of some of the samples."""
        return self.loss(outputs, targets) if self.enable_deep_supervision else self.loss(outputs[0], targets[0])

    def _mean_prediction(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Eq. 1 of the partial samples of this batch; zeros if there are none."""
        if not len(logits):
            return torch.zeros(logits.shape[1], device=logits.device)
        return mean_prediction(logits, self.label_layout.valid(target), self.label_layout)

    def _ascend(self, duals: DualVariables, mean: torch.Tensor, samples: int) -> None:
        """One step of the duals with the mean prediction of all devices; none if no sample is partial."""
        sums = torch.cat([mean * samples, mean.new_full((1,), samples)])
        if self.is_ddp:
            dist.all_reduce(sums)
        rate = self.options.dual_rate * self.optimizer.param_groups[0]["lr"]
        # Without a sample on any device this is 0 / 0, with which the duals stay as they are: the host need not know.
        duals.ascend(sums[:-1] / sums[-1], min(1.0, rate))

    def estimate_prior(self) -> torch.Tensor:
        """The proportions q of the classes in the fully labelled training cases, (C,) on the device.

        Raises:
            RuntimeError: the loaders are not there yet.
        """
        if self._loader is None:
            raise RuntimeError("The prior is estimated with the training loader: call get_dataloaders first.")
        values, ignore_label = self.class_values(), self.label_manager.ignore_label
        if self.options.prior_sampling == "volumes":
            proportions = self._loader.volume_proportions(values, ignore_label)
        else:
            labels = self.dataset_json["labels"]
            annotations = [
                {value for name in self.annotated[case] for value in label_values(labels[name])}
                for case in self._loader.partial_cases
            ]
            proportions = self._loader.patch_proportions(values, annotations, ignore_label, self.options.prior_patches)
        prior = torch.tensor(proportions, dtype=torch.float32, device=self.device)
        if self.is_ddp:  # where the batch is split over devices, each centres another share of its patches on organs
            dist.all_reduce(prior)
            prior /= dist.get_world_size()
        return prior

    # ---- checkpoints ----

    def extension_state(self) -> dict[str, Any]:
        """With the teacher, the prior and the duals."""
        state = super().extension_state()
        for name, part in (("frozen_copy", self._teacher), ("duals", self._duals)):
            if part is not None:
                state[name] = part.state_dict()
        return state

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """With the teacher, the prior and the duals; what is missing is made when stage 2 needs it."""
        super().load_extension_state(state)
        if "frozen_copy" in state:
            self._teacher = Teacher(self.network, self._do_i_compile())
            self._teacher.load_state_dict(state["frozen_copy"])
        if "duals" in state and self.options.prior_weight:
            self._duals = DualVariables(state["duals"]["prior"].to(self.device), self.options.dual_step)
            self._duals.load_state_dict(state["duals"])


class nnUNetTrainerPartial(nnUNetTrainerPaNN):
    """PaNN without the prior (lambda2 = 0): partial labels and pseudo-labels alone, the paper's baseline."""

    prior_weight = 0.0
