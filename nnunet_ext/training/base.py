"""What all trainers here share: auxiliary networks, checkpoints that continue exactly, curves of loss terms."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.helpers import dummy_context
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import autocast, nn
from torch import distributed as dist

from nnunet_ext.core.errors import UserError
from nnunet_ext.labels import LabelLayout
from nnunet_ext.random_states import random_states, restore_random_states
from nnunet_ext.training.auxiliary import AuxiliaryNetwork, OptimizerFactory, SchedulerFactory
from nnunet_ext.training.checkpoint import (
    EXTENSION_KEY,
    read_checkpoint,
    write_checkpoint,
)
from nnunet_ext.training.cost.expectation import expectation
from nnunet_ext.training.curves import LossCurves, mean_of_known
from nnunet_ext.training.options import Options, resolve, with_options
from nnunet_ext.training.run_length import strip_run_length
from nnunet_ext.training.teacher import bare

Samples = slice | torch.Tensor  # indices of some samples of a batch
AUXILIARY = "helpers"  # key of the auxiliary networks in a checkpoint, under the name they had first
MAX_GRADIENT_NORM = 12.0  # of stock nnU-Net


class ExtendedTrainer(nnUNetTrainer):
    """``nnUNetTrainer`` with auxiliary networks that train, save and resume with it.

    A trainer derived from this one overrides :meth:`check_supported` and :meth:`build_auxiliary`, and in its
    ``train_step`` uses :meth:`to_device`, :meth:`autocast`, :meth:`added_terms`, :meth:`network_step` and
    :meth:`step_output`.
    """

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.auxiliary: dict[str, AuxiliaryNetwork] = {}
        self.loss_curves = LossCurves()
        self._resumed_random_states: dict[str, Any] | None = None
        self.configure()
        self.options = self._chosen_options()

    # ---- what a derived trainer overrides ----

    # What panels of loss_terms.png are called, where the name of the term is too short.
    curve_titles: Mapping[str, str] = {"basic": "Dice + CE"}
    # Says which options there are; `options` are of this class.
    options_class: type[Options] = Options
    options: Options
    # Whether the transforms that are asked for are those of images with targets.
    augments_targets: bool = True

    def configure(self) -> None:
        """Change what nnU-Net's constructor has set, such as ``initial_lr``; called once, at the end of it."""

    def check_supported(self) -> None:
        """Raise :class:`UserError` with one sentence if the plan, the dataset or the options cannot work.

        nnU-Net weighs the coarsest output of deep supervision 0 and divides by the sum of the weights. With two
        resolution stages there is one output and its weight is 0 / 0: the network is nan after one step, in the stock
        trainer too. With several GPUs and no compilation the weight is 1e-6 / 1e-6, and training goes well.
        """
        stages = len(self.configuration_manager.pool_op_kernel_sizes)
        weighs = stages > 2 or (stages == 2 and self.is_ddp and not self._do_i_compile())
        if self.enable_deep_supervision and not weighs:
            raise UserError(
                f"configuration {self.configuration_name} of {self.plans_file} has {stages} resolution stage(s), too "
                "few for nnU-Net's deep supervision, which would make every weight of the network nan: use plans with "
                "at least three."
            )

    def build_auxiliary(self) -> dict[str, AuxiliaryNetwork]:
        """Make the auxiliary networks, by name; called once, after ``self.network`` exists."""
        return {}

    def prepare_simulation(self) -> None:
        """Stand in for data before :meth:`initialize`, where ``nnunet-ext cost`` runs a step without any."""

    def simulated_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch of ``nnunet-ext cost`` as the loader gives it in the last epochs, of zeros; stock's is given.

        What an epoch makes before its first step is made here.
        """
        return batch

    # ---- building blocks for derived trainers ----

    @classmethod
    def options_in(cls, plans_manager: PlansManager) -> Any:
        """The options that plans set, where there is no trainer yet: in ``build_network_architecture``.

        Raises:
            UserError: an option or a value does not exist.
        """
        where = f"plans {plans_manager.plans_name}"
        return resolve(cls.options_class, cls, strip_run_length(cls.__name__), plans_manager.plans, where)

    def make_auxiliary(
        self,
        module: nn.Module,
        optimizer: OptimizerFactory,
        initial_lr: float,
        may_compile: bool = True,
        scheduler: SchedulerFactory | None = None,
        mixed_precision: bool = True,
    ) -> AuxiliaryNetwork:
        """Make an auxiliary network on this trainer's device.

        ``may_compile``: use ``torch.compile`` where nnU-Net does. ``scheduler``: makes the learning rate schedule;
        default: nnU-Net's, from ``initial_lr``. ``mixed_precision``: it runs under :meth:`autocast`.
        """
        return AuxiliaryNetwork(
            module,
            optimizer,
            self.device,
            scheduler=scheduler or (lambda made: PolyLRScheduler(made, initial_lr, self.num_epochs)),
            compile_module=may_compile and self._do_i_compile(),
            mixed_precision=mixed_precision,
        )

    def to_device(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Image (B, C, *spatial) and target, a tensor or a list of one per output scale, on the device."""
        target = batch["target"]
        if isinstance(target, list):
            moved: Any = [t.to(self.device, non_blocking=True) for t in target]
        else:
            moved = target.to(self.device, non_blocking=True)
        return batch["data"].to(self.device, non_blocking=True), moved

    def sent_to_device(self, values: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
        """Numbers of the host as a tensor on the device, without a wait for what runs there."""
        tensor = torch.tensor(values, dtype=dtype)
        if self.device.type == "cuda" and torch.cuda.is_available():
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def autocast(self) -> AbstractContextManager:
        """Mixed precision where nnU-Net uses it: on cuda only."""
        return autocast(self.device.type, enabled=True) if self.device.type == "cuda" else dummy_context()

    def network_step(self, loss: torch.Tensor) -> None:
        """One step of ``self.optimizer`` down the gradient of ``loss``, as the stock ``train_step`` does it."""
        if self.grad_scaler is None:
            loss.backward()
            self.clip_gradients()
            self.optimizer.step()
        else:
            self.grad_scaler.scale(loss).backward()
            self.grad_scaler.unscale_(self.optimizer)
            self.clip_gradients()
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def clip_gradients(self) -> None:
        """Clip the gradients of ``self.network``, unscaled, as stock nnU-Net does."""
        nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)

    def added_terms(self, outputs: Any, target: Any, samples: Samples = slice(None)) -> torch.Tensor | float:
        """What is added to the region loss of a network, of the outputs of deep supervision or the only one.

        ``samples``: which ones of the batch these are. Called outside of :meth:`autocast`.
        """
        return 0.0

    def train_step(self, batch: dict) -> dict:
        """The step of stock nnU-Net, down its loss and :meth:`added_terms`."""
        data, target = self.to_device(batch)
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            outputs = self.network(data)
            region = self.loss(outputs, target)
        added = self.added_terms(outputs, target)
        loss = region + added
        self.network_step(loss)
        return self.step_output(loss, {"region": region} if isinstance(added, torch.Tensor) else {})

    def step_output(self, loss: torch.Tensor, terms: dict[str, torch.Tensor]) -> dict[str, Any]:
        """What ``train_step`` returns: the loss and its terms, fetched from the device in one transfer."""
        values = torch.stack([v.detach().float().reshape(()) for v in (loss, *terms.values())]).cpu().numpy()
        return {"loss": values[0], **dict(zip(terms, values[1:], strict=True))}

    # ---- nnU-Net's hooks ----

    def initialize(self) -> None:
        """Check that the run can work, then build the networks."""
        if not self.was_initialized:
            self.options = self._chosen_options()  # again: a derived constructor may have set attributes since
            self.check_supported()
        super().initialize()
        values = ", ".join(f"{name} {value}" for name, value in self.options.as_dict().items())
        if values:
            self.print_to_log_file(f"Options of {self.base_name}: {values}.")
        # What follows, augmentation included, draws the same random numbers as a stock run of the same seed.
        with torch.random.fork_rng(devices=[]):
            self.auxiliary = self.build_auxiliary()

    @property
    def base_name(self) -> str:
        """Name of this trainer without run length."""
        return strip_run_length(type(self).__name__)

    @property
    def label_layout(self) -> LabelLayout:
        """Classes, regions and ignored voxels of this dataset."""
        return LabelLayout.of(self.label_manager)

    @property
    def plans_file(self) -> str:
        """The plans, for messages."""
        return f"{self.preprocessed_dataset_folder_base}/{self.plans_manager.plans_name}.json"

    def _chosen_options(self) -> Any:
        return resolve(self.options_class, self, self.base_name, self.plans_manager.plans, self.plans_file)

    def on_train_start(self) -> None:
        """Say what memory is needed, start the loaders; a resumed run goes on with the random numbers it would draw.

        Raises:
            UserError: the previous stage of a cascade has not predicted all cases.
        """
        self._check_previous_stage()
        if not self.was_initialized:
            self.initialize()
        if self.device.type == "cuda" and self.local_rank == 0:
            self.print_to_log_file(expectation(self))
        # nnU-Net writes these plans beside the model, whose network is built by them under other defaults too.
        manager = self.plans_manager
        manager.plans = with_options(manager.plans, self.base_name, self.options.as_dict(), manager.plans_name)
        super().on_train_start()
        fresh = [name for name, network in self.auxiliary.items() if not network.was_restored]
        if fresh:
            self.print_to_log_file(f"Auxiliary networks that start from random weights: {', '.join(fresh)}.")
        # Only here: starting the loaders draws random numbers too. Only on the first rank, whose states these are;
        # the others must not draw the same batches.
        if self._resumed_random_states is not None and self.local_rank == 0:
            restore_random_states(self._resumed_random_states, self.device)
        self._resumed_random_states = None

    def without_prediction(self, cases: Iterable[str]) -> list[str]:
        """Those of the cases that a cascade's previous stage has not predicted; none where there is no such stage."""
        if not self.is_cascaded:
            return []
        there = {file.stem for file in Path(self.folder_with_segs_from_previous_stage).glob("*")}
        return sorted(set(cases) - there)

    def _check_previous_stage(self) -> None:
        """What is missing would end one of stock nnU-Net's workers after the other."""
        training, validation = self.do_split() if self.is_cascaded else ([], [])
        cases = [*training, *validation]
        lacking = self.without_prediction(cases)
        if lacking:
            raise UserError(
                f"{self.folder_with_segs_from_previous_stage} has no prediction of {lacking[0]} ({len(lacking)} of "
                f"{len(cases)} cases lack one): train all folds of {self.configuration_manager.previous_stage_name} "
                "with a trainer of the same name."
            )

    def on_train_epoch_start(self) -> None:
        """Set the learning rates of this epoch, those of the auxiliary networks included."""
        super().on_train_epoch_start()
        for network in self.auxiliary.values():
            network.start_epoch(self.current_epoch)

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the loss as stock nnU-Net does, and its terms."""
        super().on_train_epoch_end(train_outputs)
        terms = [name for name in train_outputs[0] if name != "loss"]
        if not terms:
            return
        means = [mean_of_known([output[name] for output in train_outputs]) for name in terms]
        if self.is_ddp:
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, means)
            means = [mean_of_known(ranks) for ranks in zip(*gathered, strict=True)]
        values = dict(zip(terms, means, strict=True))
        self.loss_curves.log(self.current_epoch, values)
        self.print_to_log_file("loss terms:", ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
        for logger in self.logger.loggers:  # Weights & Biases, where the user has switched it on
            for name, value in values.items():
                logger.log(f"loss_terms/{name}", value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Save and plot as stock nnU-Net does, and plot the loss terms."""
        super().on_epoch_end()
        if self.local_rank == 0:
            self.loss_curves.write(self.output_folder, self.curve_titles)

    # ---- checkpoints ----

    def save_checkpoint(self, filename: str) -> None:
        """Write the stock checkpoint with our state under one key of its own, atomically."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        buffer = io.BytesIO()  # the stock method writes wherever torch.save can
        super().save_checkpoint(buffer)
        buffer.seek(0)
        checkpoint = torch.load(buffer, map_location="cpu", weights_only=False)
        checkpoint[EXTENSION_KEY] = self.extension_state()
        write_checkpoint(checkpoint, filename)

    def extension_state(self) -> dict[str, Any]:
        """All state beyond the stock checkpoint's; a derived trainer adds its own to it."""
        return {
            AUXILIARY: {name: network.state_dict() for name, network in self.auxiliary.items()},
            "loss_curves": self.loss_curves.state_dict(),
            "random_states": random_states(self.device),
            "options": self.options.as_dict(),
        }

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`extension_state`; what an older checkpoint lacks stays as it is and is named in the log."""
        saved = state.get(AUXILIARY, {})
        for name, network in self.auxiliary.items():
            if name in saved:
                network.load_state_dict(saved[name])
        if "loss_curves" in state:
            self.loss_curves.load_state_dict(state["loss_curves"])
        self._resumed_random_states = state.get("random_states")
        differences = self.options.differences(state.get("options", {}))
        if differences:
            self.print_to_log_file(f"WARNING: options have changed since the checkpoint: {'; '.join(differences)}.")

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Load a checkpoint file of this trainer.

        Raises:
            UserError: the file is truncated, or another trainer wrote it.
            TypeError: given anything but a file name, as nnU-Net 2.8 itself takes nothing else.
        """
        if not isinstance(filename_or_checkpoint, str):
            raise TypeError("load_checkpoint takes the name of a checkpoint file.")
        if not self.was_initialized:
            self.initialize()
        checkpoint = read_checkpoint(filename_or_checkpoint, type(self).__name__, bare(self.network))
        upgraded = self.upgrade_checkpoint(checkpoint)
        if upgraded is checkpoint:
            super().load_checkpoint(filename_or_checkpoint)
        else:
            with tempfile.TemporaryDirectory() as folder:  # nnU-Net 2.8 takes nothing but a file
                write_checkpoint(upgraded, Path(folder) / "checkpoint.pth")
                super().load_checkpoint(str(Path(folder) / "checkpoint.pth"))
        self.load_extension_state(upgraded.get(EXTENSION_KEY, {}))
        self.print_to_log_file(f"Loaded {filename_or_checkpoint}, written after {self.current_epoch} epoch(s).")

    def upgrade_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """The checkpoint as this version would have written it; the very same object where nothing differs."""
        return checkpoint
