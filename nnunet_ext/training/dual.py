"""Training two networks at once: the network of the plans and its residual counterpart, saved and run as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.dual import DualNetwork, mean_outputs, residual_counterpart
from nnunet_ext.training.auxiliary import AuxiliaryNetwork
from nnunet_ext.training.loaders import OwnLoadersTrainer
from nnunet_ext.training.teacher import bare

Inference = Literal["mean", "first", "second", "best"]
NAMES = ("first", "second")
SECOND = "second_network"


class DualTrainer(OwnLoadersTrainer):
    """Trains two networks; the ``train_step`` of a derived trainer says how.

    ``self.network`` is the first one, that of the plans, so that all that stock nnU-Net does with it stays as it is
    (``-pretrained_weights``, ``torch.compile``, ``DistributedDataParallel``, optimiser). The second one is a helper.
    Checkpoints, validation and inference are of :class:`DualNetwork`, which holds both.
    """

    # Whose prediction counts: the mean of both, one of them, or the one with the better pseudo Dice in validation.
    # "best" is chosen when the validation of an epoch begins, by those before, and holds for it and for the checkpoints
    # that follow from it: so a checkpoint predicts as the network does whose score it was kept for. First: the mean.
    inference: Inference = "mean"
    # Weight of the past in the running mean of the pseudo Dice by which "best" chooses; that of nnU-Net's own.
    dice_momentum: float = 0.9

    network: Any
    loss: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net's own signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        # The class builds both networks, for inference; what trains as self.network is the first one alone.
        self.build_network_architecture: Callable[..., nn.Module] = nnUNetTrainer.build_network_architecture  # type: ignore[method-assign]
        self._pseudo_dice: list[float] | None = None
        self._best: int | None = None

    # ---- the networks ----

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Both networks in one, for inference; which of them answers is in the checkpoint."""
        channels = (num_input_channels, num_output_channels)
        first = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, *channels, enable_deep_supervision
        )
        return DualNetwork(first, build_second_network(configuration_manager, *channels, enable_deep_supervision))

    @property
    def second(self) -> AuxiliaryNetwork:
        """The second network, with its optimiser."""
        return self.auxiliary[SECOND]

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The two networks themselves, whatever wraps the first one."""
        network = self.network.module if isinstance(self.network, _Distributed) else bare(self.network)
        return (network.first if isinstance(network, DualNetwork) else network), self.second.module

    @property
    def shares(self) -> tuple[float, float]:
        """Weights of the two networks in inference."""
        if self.inference == "best" and self._best is not None:
            return (0.0, 1.0) if self._best else (1.0, 0.0)
        return {"first": (1.0, 0.0), "second": (0.0, 1.0)}.get(self.inference, (0.5, 0.5))

    @contextmanager
    def both_as_network(self) -> Iterator[None]:
        """Within this context ``self.network`` is both networks in one, for what stock nnU-Net does with it."""
        alone = self.network
        run = (alone.module if self.is_ddp else alone, self.second)
        dual = DualNetwork(*self.networks(), self.shares, run).to(self.device)
        self.network = _Distributed(dual) if self.is_ddp else dual
        try:
            yield
        finally:
            self.network = alone

    def build_auxiliary(self) -> dict[str, AuxiliaryNetwork]:
        """The second network, which learns as the first one does."""
        module = build_second_network(
            self.configuration_manager,
            self.num_input_channels,
            self.label_manager.num_segmentation_heads,
            self.enable_deep_supervision,
        )

        # By the method that made those of the first network, so that who overrides it changes both.
        first, self.network = self.network, module.to(self.device)
        try:
            optimizer, scheduler = self.configure_optimizers()
        finally:
            self.network = first
        return {
            SECOND: self.make_auxiliary(module, lambda _: optimizer, self.initial_lr, scheduler=lambda _: scheduler)
        }

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """In both networks."""
        networks: tuple[Any, Any] = self.networks()
        for network in networks:
            network.decoder.deep_supervision = enabled

    # ---- checks ----

    def check_supported(self) -> None:
        """Whose prediction counts, and the network of the plans."""
        super().check_supported()
        name = type(self).__name__
        plans = f"{self.preprocessed_dataset_folder_base}/{self.plans_manager.plans_name}.json"
        if self.inference not in get_args(Inference):
            raise UserError(
                f"inference of {name} must be one of {', '.join(get_args(Inference))}, got {self.inference!r}."
            )
        if type(self).build_network_architecture is not DualTrainer.build_network_architecture:
            raise UserError(
                f"{name} overrides build_network_architecture, by which only inference would build its networks: "
                f"change the network of configuration {self.configuration_name} in {plans} instead."
            )
        network = self.configuration_manager.network_arch_class_name
        if residual_counterpart(network, self.configuration_manager.network_arch_init_kwargs) is None:
            raise UserError(
                f"{name} knows no residual counterpart of {network}, the network of configuration "
                f"{self.configuration_name} in {plans}: use plans with PlainConvUNet or ResidualEncoderUNet."
            )

    # ---- validation ----

    def on_validation_epoch_start(self) -> None:
        """Both networks in evaluation mode; the better one is chosen."""
        super().on_validation_epoch_start()
        self.second.module.eval()
        self._best = self._better()

    def _better(self) -> int | None:
        """Which network has the better running pseudo Dice; ``None`` before the first validation."""
        return None if self._pseudo_dice is None else int(self._pseudo_dice[0] < self._pseudo_dice[1])

    def validation_step(self, batch: dict) -> dict:
        """What stock nnU-Net computes, for the combination of both, with the counts of each beside it."""
        data, target = self.to_device(batch)
        with self.autocast():
            outputs = [network(data) for network in (self.network, self.second)]
        batch = {**batch, "data": data, "target": target}
        result = self._validate(batch, mean_outputs(outputs[0], outputs[1], self.shares))
        for name, output in zip(NAMES, outputs, strict=True):
            counts = self._validate(batch, output, with_loss=False)
            result |= {f"{key}: {name}": counts[key] for key in ("tp_hard", "fp_hard", "fn_hard")}
        return result

    def _validate(self, batch: dict, output: Any, with_loss: bool = True) -> dict:
        """The stock step with a given output of the network; without its loss, of which most of the time goes."""
        target = batch["target"]  # which the stock step changes where voxels are ignored
        copied = [t.clone() for t in target] if isinstance(target, list) else target.clone()
        network, loss = self.network, self.loss
        self.network = lambda _: output
        if not with_loss:
            self.loss = lambda *_: torch.zeros(())
        try:
            return super().validation_step({**batch, "target": copied})
        finally:
            self.network, self.loss = network, loss

    def on_validation_epoch_end(self, val_outputs: list[dict]) -> None:
        """Log the combination as stock nnU-Net does, and keep the running pseudo Dice of each network."""
        super().on_validation_epoch_end(val_outputs)
        dice = []
        for name in NAMES:
            counts = np.stack([sum(o[f"{key}_hard: {name}"] for o in val_outputs) for key in ("tp", "fp", "fn")])
            if self.is_ddp:
                gathered: list[Any] = [None] * dist.get_world_size()
                dist.all_gather_object(gathered, counts)
                counts = np.sum(gathered, 0)
            found, false, missed = counts
            with np.errstate(invalid="ignore"):
                per_class = 2 * found / (2 * found + false + missed)
            dice.append(float(np.nanmean(per_class)) if np.isfinite(per_class).any() else 0.0)
        if self._pseudo_dice is None:
            self._pseudo_dice = dice
        else:
            pairs = zip(self._pseudo_dice, dice, strict=True)
            self._pseudo_dice = [self.dice_momentum * old + (1 - self.dice_momentum) * new for old, new in pairs]
        self.print_to_log_file(
            "pseudo Dice of each network:", ", ".join(f"{n} {d:.4f}" for n, d in zip(NAMES, dice, strict=True))
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """The stock validation, of the combination."""
        chosen = [name for name, share in zip(NAMES, self.shares, strict=True) if share]
        self.print_to_log_file(f"Prediction by the {' and the '.join(chosen)} network (inference: {self.inference}).")
        with self.both_as_network():
            super().perform_actual_validation(save_probabilities)

    # ---- checkpoints ----

    def save_checkpoint(self, filename: str) -> None:
        """With the weights of both networks where stock nnU-Net looks for those of its network."""
        with self.both_as_network():
            super().save_checkpoint(filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As stock nnU-Net does, into both networks."""
        if not self.was_initialized:
            self.initialize()
        with self.both_as_network():
            super().load_checkpoint(filename_or_checkpoint)

    def extension_state(self) -> dict[str, Any]:
        """With what the choice of the best network goes on from."""
        state = super().extension_state()
        del state["helpers"][SECOND]["weights"]  # those are with the first network's
        state["pseudo_dice"] = self._pseudo_dice
        state["best"] = self._best
        return state

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """With what :meth:`extension_state` adds."""
        saved = dict(state.get("helpers", {}))
        if SECOND in saved:
            saved[SECOND] = {**saved[SECOND], "weights": self.second.module.state_dict()}
        super().load_extension_state({**state, "helpers": saved})
        self._pseudo_dice = state.get("pseudo_dice")
        self._best = state.get("best", self._better())  # in older checkpoints it was chosen when they were written


class _Distributed(nn.Module):
    """Holds a network as ``DistributedDataParallel`` does, for stock code that looks into ``module``."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> Any:
        return self.module(x)


def build_second_network(
    configuration_manager: ConfigurationManager, input_channels: int, output_channels: int, deep_supervision: bool
) -> nn.Module:
    """The residual counterpart of the network of a configuration.

    Raises:
        UserError: there is none.
    """
    name = configuration_manager.network_arch_class_name
    counterpart = residual_counterpart(name, configuration_manager.network_arch_init_kwargs)
    if counterpart is None:
        raise UserError(f"There is no residual counterpart of {name}: use PlainConvUNet or ResidualEncoderUNet.")
    return get_network_from_plans(
        *counterpart,
        configuration_manager.network_arch_init_kwargs_req_import,
        input_channels,
        output_channels,
        allow_init=True,
        deep_supervision=deep_supervision,
    )
