"""Auxiliary networks: networks that train beside ``trainer.network`` and are not needed for inference.

A discriminator, say. Each owns all of its state (weights, optimiser, schedule, gradient scaler if any), so that a
trainer only asks it to compute, to step and to save itself. They live outside ``trainer.network``: the checkpoint's
``network_weights`` stay exactly what stock inference expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
SchedulerFactory = Callable[[torch.optim.Optimizer], Any]


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


@torch.no_grad()
def broadcast_from_first_rank(module: nn.Module) -> None:
    """Give all ranks the weights and buffers of rank 0; does nothing outside distributed training."""
    if _is_distributed():
        for tensor in [*module.parameters(), *module.buffers()]:
            dist.broadcast(tensor, src=0)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Average the gradients over all ranks in one exchange; does nothing outside distributed training.

    Auxiliary networks may be run several times between two steps, with and without their own gradients; this does for
    them what ``DistributedDataParallel`` does for a network that is run once, though not while gradients are still
    being computed.
    """
    if not _is_distributed():
        return
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        return
    flat = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for gradient, chunk in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(chunk.view_as(gradient))


def _new_grad_scaler() -> Any:
    """A gradient scaler for cuda, in torch before 2.3 as well, which nnU-Net supports too."""
    return torch.amp.GradScaler("cuda") if hasattr(torch.amp, "GradScaler") else torch.cuda.amp.GradScaler()


@torch.no_grad()
def _drop_unless_finite(module: nn.Module, norm: torch.Tensor) -> None:
    """Zero the gradients where their norm is not finite, decided on the device.

    A prediction that overflowed in half precision is skipped by the scaler of the network that made it, and must not
    stay in the weights of one that judged it.
    """
    for parameter in module.parameters():
        if parameter.grad is not None:
            parameter.grad = torch.where(torch.isfinite(norm), parameter.grad, 0)


class AuxiliaryNetwork:
    """A network with its optimiser, schedule and gradient scaler, saved and resumed as one.

    Args:
        module: the network; moved to ``device``, weights of rank 0 everywhere in distributed training.
        optimizer: makes the optimiser from the parameters.
        device: where the training runs.
        scheduler: makes the learning rate schedule; its ``step`` takes the epoch, as nnU-Net's do.
        compile_module: run through ``torch.compile``; pays for large networks only, and freezing compiles once more.
        max_gradient_norm: gradients are clipped to this norm, nnU-Net's own value by default.
        mixed_precision: the network runs in half precision on cuda, where its gradients need a scaler, as nnU-Net's do.
            One that runs in float32 needs none, nor the wait for the device at every step that comes with it.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: OptimizerFactory,
        device: torch.device,
        scheduler: SchedulerFactory | None = None,
        compile_module: bool = False,
        max_gradient_norm: float = 12.0,
        mixed_precision: bool = True,
    ) -> None:
        self.module = module.to(device)
        if _is_distributed():
            if device.type == "cuda":
                self.module = nn.SyncBatchNorm.convert_sync_batchnorm(self.module)
            broadcast_from_first_rank(self.module)
        self._forward: Callable[..., torch.Tensor] = (
            torch.compile(self.module, dynamic=False) if compile_module else self.module
        )
        self.optimizer = optimizer(self.module.parameters())
        self.scheduler = scheduler(self.optimizer) if scheduler is not None else None
        self.grad_scaler = _new_grad_scaler() if mixed_precision and device.type == "cuda" else None
        self.max_gradient_norm = max_gradient_norm
        self.was_restored = False

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        return self._forward(*inputs)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Within this context gradients pass through the network but not into its weights."""
        trained = [parameter for parameter in self.module.parameters() if parameter.requires_grad]
        self.module.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def step(self, loss: torch.Tensor) -> None:
        """One step of the optimiser down the gradient of ``loss`` (scalar)."""
        self.optimizer.zero_grad(set_to_none=True)
        (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()
        average_gradients(self.module)  # before unscaling: an overflow on one rank then skips the step on all
        if self.grad_scaler is None:
            norm = nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
            _drop_unless_finite(self.module, norm)
            self.optimizer.step()
        else:
            self.grad_scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.module.parameters(), self.max_gradient_norm)
            self.grad_scaler.step(self.optimizer)
            self.grad_scaler.update()

    def start_epoch(self, epoch: int) -> None:
        """Set training mode and the learning rate of ``epoch``."""
        self.module.train()
        if self.scheduler is not None:
            self.scheduler.step(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue as if never stopped; the schedule follows from the epoch."""
        return {
            "weights": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "grad_scaler": None if self.grad_scaler is None else self.grad_scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.module.load_state_dict(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.grad_scaler is not None and state["grad_scaler"] is not None:
            self.grad_scaler.load_state_dict(state["grad_scaler"])
        self.was_restored = True
