"""Training two networks at once: the network of the plans and its residual counterpart, in one module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import distributed as dist
from torch import nn

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.dual import DualNetwork, mean_outputs, residual_counterpart
from nnunet_ext.training.base import AUXILIARY, MAX_GRADIENT_NORM
from nnunet_ext.training.checkpoint import EXTENSION_KEY
from nnunet_ext.training.hard_counts import hard_counts
from nnunet_ext.training.loaders import OwnLoadersTrainer
from nnunet_ext.training.options import Options, option
from nnunet_ext.training.teacher import bare

Inference = Literal["mean", "first", "second", "best"]
NAMES = ("first", "second")
_SECOND = "second_network"  # the auxiliary network that held it in checkpoints of earlier versions


@dataclass(frozen=True)
class DualOptions(Options):
    """Options of :class:`DualTrainer`."""

    RENAMED: ClassVar[Mapping[str, str]] = {"dice_memory": "dice_momentum"}

    # "best" is chosen when the validation of an epoch begins, by those before, and holds for it and for the checkpoints
    # that follow from it: so a checkpoint predicts as the network does whose score it was kept for. First: the mean.
    inference: Inference = option(
        "mean", "Whose prediction counts: the mean of both, one of them, or the one with the better pseudo Dice."
    )
    dice_momentum: float = option(
        0.9,
        "Weight of the past in the running mean of the pseudo Dice by which best chooses; nnU-Net's own.",
        at_least=0,
        below=1,
    )
    first_from: str = option(
        "",
        "Checkpoint file of stock nnU-Net, or of one network of these plans, that the first network starts from.",
    )


class DualTrainer(OwnLoadersTrainer):
    """Trains two networks; the ``train_step`` of a derived trainer says how.

    ``self.network`` is a :class:`DualNetwork` in training as in inference: optimiser, ``torch.compile``,
    ``DistributedDataParallel``, checkpoints and prediction are stock nnU-Net's. In training it gives the outputs of
    both networks, in the final validation their mean.
    """

    options_class: type[Options] = DualOptions
    options: DualOptions

    network: Any
    loss: Any
    _pseudo_dice: list[float] | None = None
    _best: int | None = None
    _resumes: bool = False

    # ---- the networks ----

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Both networks in one; which of them answers is in the checkpoint."""
        channels = (num_input_channels, num_output_channels)
        first = nnUNetTrainer.build_network_architecture(
            plans_manager, configuration_manager, *channels, enable_deep_supervision
        )
        # What follows, augmentation included, draws the same random numbers as a stock run of the same seed.
        with torch.random.fork_rng(devices=[]):
            second = build_second_network(configuration_manager, *channels, enable_deep_supervision)
        return DualNetwork(first, second)

    def initialize(self) -> None:
        """Build both networks; the first one starts from ``first_from`` if that is given.

        Raises:
            UserError: a derived trainer builds something else.
        """
        super().initialize()
        if not isinstance(bare(self.network), DualNetwork):
            raise UserError(
                f"build_network_architecture of {type(self).__name__} must return a DualNetwork, as that of "
                "nnUNetTrainerSDNet does."
            )
        dual = self.dual
        dual.separate = True
        dual.set_weights(self.shares)
        if self.options.first_from and not self._resumes:
            load_pretrained_weights(dual.first, self.options.first_from, verbose=self.local_rank == 0)

    @property
    def dual(self) -> DualNetwork:
        """The two networks, whatever wraps them."""
        network = bare(self.network)
        assert isinstance(network, DualNetwork)
        return network

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """The two networks themselves."""
        return self.dual.first, self.dual.second

    @property
    def shares(self) -> tuple[float, float]:
        """Weights of the two networks in inference."""
        if self.options.inference == "best" and self._best is not None:
            return (0.0, 1.0) if self._best else (1.0, 0.0)
        return {"first": (1.0, 0.0), "second": (0.0, 1.0)}.get(self.options.inference, (0.5, 0.5))

    @contextmanager
    def combined(self) -> Iterator[None]:
        """Within this context ``self.network`` answers as in inference, with one output."""
        self.dual.separate = False
        try:
            yield
        finally:
            self.dual.separate = True

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """In both networks."""
        networks: tuple[Any, Any] = self.networks()
        for network in networks:
            network.decoder.deep_supervision = enabled

    def clip_gradients(self) -> None:
        """Each network by itself, as if it trained alone."""
        for network in self.networks():
            nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)

    # ---- checks ----

    def check_supported(self) -> None:
        """The network of the plans must have a counterpart."""
        super().check_supported()
        name = type(self).__name__
        network = self.configuration_manager.network_arch_class_name
        if residual_counterpart(network, self.configuration_manager.network_arch_init_kwargs) is None:
            raise UserError(
                f"{name} knows no residual counterpart of {network}, the network of configuration "
                f"{self.configuration_name} in {self.plans_file}: use plans with PlainConvUNet or ResidualEncoderUNet."
            )

    # ---- validation ----

    def on_validation_epoch_start(self) -> None:
        """Evaluation mode; the better network is chosen."""
        super().on_validation_epoch_start()
        self._best = self._better()
        self.dual.set_weights(self.shares)

    def _better(self) -> int | None:
        """Which network has the better running pseudo Dice; ``None`` before the first validation."""
        return None if self._pseudo_dice is None else int(self._pseudo_dice[0] < self._pseudo_dice[1])

    def validation_step(self, batch: dict) -> dict:
        """What stock nnU-Net computes, for the combination of both, with the counts of each beside it."""
        data, target = self.to_device(batch)
        with self.autocast():
            outputs = self.network(data)
            both = mean_outputs(outputs[0], outputs[1], self.shares)
            loss = self.loss(both, target)
        if self.enable_deep_supervision:
            both, outputs, target = both[0], [output[0] for output in outputs], target[0]
        result = {"loss": loss.detach().cpu().numpy(), **self._counts(both, target)}
        for name, output in zip(NAMES, outputs, strict=True):
            result |= {f"{key}: {name}": counts for key, counts in self._counts(output, target).items()}
        return result

    def _counts(self, logits: torch.Tensor, target: torch.Tensor) -> dict[str, np.ndarray]:
        counts = hard_counts(logits, target, self.label_layout)
        return dict(zip(("tp_hard", "fp_hard", "fn_hard"), counts.cpu().numpy(), strict=True))

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
            self._pseudo_dice = [
                self.options.dice_momentum * old + (1 - self.options.dice_momentum) * new for old, new in pairs
            ]
        self.print_to_log_file(
            "pseudo Dice of each network:", ", ".join(f"{n} {d:.4f}" for n, d in zip(NAMES, dice, strict=True))
        )

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """The stock validation, of the combination."""
        chosen = [name for name, share in zip(NAMES, self.shares, strict=True) if share]
        self.print_to_log_file(
            f"Prediction by the {' and the '.join(chosen)} network (inference: {self.options.inference})."
        )
        with self.combined():
            super().perform_actual_validation(save_probabilities)

    # ---- checkpoints ----

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """As stock nnU-Net does; nothing else is loaded into the first network then."""
        self._resumes = True
        super().load_checkpoint(filename_or_checkpoint)

    def upgrade_checkpoint(self, checkpoint: dict[str, Any]) -> dict[str, Any]:
        """Join the states of the two optimisers that earlier versions had; there is one of both networks now."""
        state = dict(checkpoint.get(EXTENSION_KEY, {}))
        auxiliary = dict(state.get(AUXILIARY, {}))
        second = auxiliary.pop(_SECOND, None)
        if second is None:
            return super().upgrade_checkpoint(checkpoint)
        joined = join_optimizer_states(checkpoint["optimizer_state"], second["optimizer"])
        return checkpoint | {"optimizer_state": joined, EXTENSION_KEY: state | {AUXILIARY: auxiliary}}

    def extension_state(self) -> dict[str, Any]:
        """With what the choice of the best network goes on from."""
        return {**super().extension_state(), "pseudo_dice": self._pseudo_dice, "best": self._best}

    def load_extension_state(self, state: dict[str, Any]) -> None:
        """With what :meth:`extension_state` adds."""
        super().load_extension_state(state)
        self._pseudo_dice = state.get("pseudo_dice")
        self._best = state.get("best", self._better())  # in older checkpoints it was chosen when they were written
        self.dual.set_weights(self.shares)


def join_optimizer_states(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """State of an optimiser of one group, of the parameters of two optimisers with one group each."""
    (group,), (other,) = first["param_groups"], second["param_groups"]
    offset = len(group["params"])
    return {
        "state": first["state"] | {index + offset: value for index, value in second["state"].items()},
        "param_groups": [group | {"params": list(range(offset + len(other["params"])))}],
    }


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
