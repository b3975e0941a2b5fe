"""Learning rates and weights of loss terms over the epochs of a run."""

from __future__ import annotations

import math

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer


def ramp(epoch: int, num_epochs: int, length: float) -> float:
    """Weight of a term that rises from 0 to 1 over the first ``length`` (a fraction) of a run."""
    return 1.0 if length <= 0 else min(1.0, epoch / (length * num_epochs))


def first_epoch(num_epochs: int, start: float) -> int:
    """First epoch of what begins after ``start``, a fraction of a run; rounding errors (0.55 * 100 > 55) aside."""
    return math.ceil(round(start * num_epochs, 6))


def step(epoch: int, num_epochs: int, start: float) -> float:
    """Weight of a term that is 0 until ``start`` (a fraction of a run), then 1."""
    return float(epoch >= first_epoch(num_epochs, start))


class RestartingPolyLR(PolyLRScheduler):
    """nnU-Net's polynomial schedule, begun anew at one epoch and ending with the run.

    Args:
        optimizer: whose learning rates are set.
        initial_lr: learning rate of the first epoch.
        max_steps: epochs of the run.
        restart: epoch of the restart.
        factor: of the learning rate from the restart on.
    """

    def __init__(
        self, optimizer: Optimizer, initial_lr: float, max_steps: int, restart: int, factor: float = 1.0
    ) -> None:
        self.restart = restart
        self.factor = factor
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step``."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        begun, factor = (self.restart, self.factor) if current_step >= self.restart else (0, 1.0)
        rate = factor * self.initial_lr * (1 - (current_step - begun) / (self.max_steps - begun)) ** self.exponent
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


class HalvingLR(PolyLRScheduler):
    """A learning rate that is constant at first, then halved at equal distances, begun anew at one epoch.

    Args:
        optimizer: whose learning rates are set.
        initial_lr: learning rate of the first epoch.
        max_steps: epochs of the run.
        begin: epoch of the first halving.
        every: epochs between two halvings; may be a fraction.
        restart: epoch at which the rate is ``initial_lr`` again, to be halved ``every`` epochs; none if never reached.
    """

    def __init__(
        self, optimizer: Optimizer, initial_lr: float, max_steps: int, begin: float, every: float, restart: int
    ) -> None:
        self.begin = begin
        self.every = every
        self.restart = restart
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step``."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        if current_step >= self.restart:
            halvings = (current_step - self.restart) // self.every
        else:
            halvings = max(0, (current_step - self.begin) // self.every + 1)
        for group in self.optimizer.param_groups:
            group["lr"] = self.initial_lr * 0.5**halvings
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
