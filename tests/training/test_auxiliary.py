"""Auxiliary networks: their state, freezing, and synchronisation over two processes."""

import copy
import functools
import os

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing as mp
from torch import nn

from nnunet_ext.losses.adversarial import discriminator_loss, generator_loss
from nnunet_ext.networks.patch_discriminator import PatchDiscriminator
from nnunet_ext.training.auxiliary import AuxiliaryNetwork

CPU = torch.device("cpu")


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.01)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_resumed_helper_takes_the_same_steps():
    inputs = torch.randn(6, 8, 3)
    straight = AuxiliaryNetwork(network(), adam, CPU)
    for x in inputs[:3]:
        straight.step(straight(x).square().mean())
    resumed = AuxiliaryNetwork(network(seed=1), adam, CPU)
    assert not resumed.was_restored
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert resumed.was_restored
    for helper in (straight, resumed):
        for x in inputs[3:]:
            helper.step(helper(x).square().mean())
    for p, q in zip(straight.module.parameters(), resumed.module.parameters(), strict=True):
        assert torch.equal(p, q)


def test_frozen_passes_gradients_through_but_keeps_none():
    helper = AuxiliaryNetwork(network(), adam, CPU)
    x = torch.randn(8, 3, requires_grad=True)
    with helper.frozen():
        loss = helper(x).sum()
    loss.backward()  # outside the context, as a trainer does once for all terms
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in helper.module.parameters())


def test_what_was_frozen_for_good_stays_frozen():
    helper = AuxiliaryNetwork(network(), adam, CPU)
    helper.module[0].requires_grad_(False)
    with helper.frozen():
        assert not any(p.requires_grad for p in helper.module.parameters())
    assert [p.requires_grad for p in helper.module.parameters()] == [False, False, True, True, True, True]


def test_compiled_helper_is_the_same_network(monkeypatch):
    # The default backend needs a C++ compiler; what can differ, tracing and its gradients, is in this one too.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    made = {}
    for compiled in (False, True):
        torch.manual_seed(0)
        module = PatchDiscriminator(2, (1.0, 1.0))
        helper = AuxiliaryNetwork(module, adam, CPU, compile_module=compiled)
        torch.manual_seed(1)
        for _ in range(3):
            fake = torch.rand(2, 2, 24, 24, requires_grad=True)
            helper.step(discriminator_loss(helper(torch.rand(2, 2, 24, 24)), helper(fake.detach())))
            with helper.frozen():
                generator_loss(helper(fake)).backward()
        made[compiled] = [*(p.detach() for p in module.parameters()), *(p.grad for p in module.parameters()), fake.grad]
    for got, expected in zip(made[True], made[False], strict=True):
        assert torch.allclose(got, expected, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="gradient scalers exist on cuda only")
def test_gradient_scaler_is_used_and_resumed():
    cuda = torch.device("cuda")
    helper = AuxiliaryNetwork(network(), adam, cuda, compile_module=True)
    for _ in range(3):
        with torch.autocast("cuda"):
            loss = helper(torch.randn(8, 3, device=cuda)).float().square().mean()
        helper.step(loss)
    resumed = AuxiliaryNetwork(network(1), adam, cuda)
    resumed.load_state_dict(helper.state_dict())
    assert resumed.grad_scaler.state_dict() == helper.grad_scaler.state_dict()
    assert resumed.grad_scaler.state_dict()["_growth_tracker"] == 3


def test_gradients_are_clipped():
    helper = AuxiliaryNetwork(nn.Linear(1, 1), lambda p: torch.optim.SGD(p, lr=1.0), CPU, max_gradient_norm=0.5)
    before = [p.detach().clone() for p in helper.module.parameters()]
    helper.step(1e6 * helper(torch.ones(1, 1)).sum())
    step = torch.cat([(p - q).flatten() for p, q in zip(helper.module.parameters(), before, strict=True)])
    assert step.norm().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_what_overflowed_does_not_stay_in_the_weights(bad):
    helper = AuxiliaryNetwork(network(), adam, CPU)
    before = copy.deepcopy(helper.module.state_dict())
    helper.step(helper(torch.full((8, 3), bad)).square().mean())
    for name, parameter in helper.module.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_only_half_precision_has_a_gradient_scaler(monkeypatch):
    monkeypatch.setattr("nnunet_ext.training.auxiliary._new_grad_scaler", lambda: "scaler")
    meta = nn.Linear(1, 1, device="meta")
    monkeypatch.setattr(meta, "to", lambda device: meta)
    cuda = torch.device("cuda")
    assert AuxiliaryNetwork(meta, adam, cuda).grad_scaler == "scaler"
    assert AuxiliaryNetwork(meta, adam, cuda, mixed_precision=False).grad_scaler is None
    assert AuxiliaryNetwork(meta, adam, CPU).grad_scaler is None


def test_schedule_takes_the_epoch():
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

    helper = AuxiliaryNetwork(network(), adam, CPU, scheduler=lambda o: PolyLRScheduler(o, 0.01, 10))
    helper.start_epoch(5)
    assert helper.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5**0.9)


def _train_on_half_a_batch(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    inputs = torch.load(f"{folder}/inputs.pt")
    # Different weights at the start: rank 0's must win.
    module = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1))
    torch.manual_seed(rank)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    helper = AuxiliaryNetwork(module, lambda p: torch.optim.SGD(p, lr=0.1), CPU)
    for x in inputs:
        half = x[rank::2]
        helper.step(helper(half).square().mean())
        with helper.frozen():  # a pass without gradients of its own must not disturb the synchronisation
            helper(half)
    torch.save(helper.module.state_dict(), f"{folder}/rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may abort a process that is torn down in the usual way


def test_two_processes_train_as_one_on_the_whole_batch(tmp_path):
    inputs = torch.randn(4, 6, 3)
    torch.save(inputs, tmp_path / "inputs.pt")
    mp.spawn(_train_on_half_a_batch, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))

    module = nn.Sequential(nn.Linear(3, 4), nn.LeakyReLU(), nn.Linear(4, 1))
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    alone = AuxiliaryNetwork(module, lambda p: torch.optim.SGD(p, lr=0.1), CPU)
    for x in inputs:
        alone.step(alone(x).square().mean())
    for name, expected in alone.module.state_dict().items():
        assert torch.equal(first[name], second[name])
        assert torch.allclose(first[name], expected, atol=1e-5), name
