"""Training steps of all trainers under ``torch.compile``: what nnU-Net compiles on a GPU, in one graph each."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch._inductor.config
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.networks.coarse_to_fine import CoarseToFineNetwork
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerCoarseToFine
from tests.conftest import Dataset, slow
from tests.trainers.test_coarse_to_fine import narrow
from tests.training.building import built_for_a_step, full_batch
from tests.training.narrow_vgg19 import use_narrow

STOCK = "nnUNetTrainer"
# Their networks, discriminators and compiled losses are those of another trainer, but for layers of one sort.
LIKE_OTHERS = {
    *("nnUNetTrainerAuxiliaryGAN", "nnUNetTrainerRegionBoundary", "nnUNetTrainerRegionPixel", "nnUNetTrainerPartial"),
    *("nnUNetTrainerCascaded", "nnUNetTrainerCascadedVGG19", "nnUNetTrainerSDNetLabelled"),
    *("nnUNetTrainerMLNNoPixel", "nnUNetTrainerMLNNoGuidance", "nnUNetTrainerMLNNoCoarse"),
}
CASES = [
    *[pytest.param(each, "eager", marks=[slow] if each in LIKE_OTHERS else []) for each in (STOCK, *TRAINERS)],
    *[pytest.param(each, "inductor", marks=slow) for each in (STOCK, *TRAINERS)],
]


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_a_step_compiles_without_graph_breaks(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    use_narrow(monkeypatch)
    narrow(functools.partial(monkeypatch.setattr, raising=False))
    monkeypatch.setenv("NNUNET_EXT_RESNET18", "random")
    torch._dynamo.reset()
    outcome = {
        compiled: loss_and_weights(dataset, monkeypatch, name, backend if compiled else "") for compiled in (0, 1)
    }
    (loss, weights), (compiled_loss, compiled_weights) = outcome[0], outcome[1]
    assert compiled_loss == pytest.approx(loss, rel=1e-3)
    for (key, plain), compiled in zip(weights.items(), compiled_weights.values(), strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-2, atol=1e-3), key


def loss_and_weights(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> tuple[float, dict[str, Any]]:
    """Of a step, compiled where a backend is named; a graph that breaks raises."""
    entry = TRAINERS.get(name)
    on_slices = entry is not None and entry.module.endswith("coarse_to_fine")
    graphs: list[Any] = []

    def noting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        graphs.append(graph)
        return torch._dynamo.lookup_backend(backend)(graph, inputs)

    with monkeypatch.context() as patch:
        if backend:
            compile_whole = functools.partial(torch.compile, backend=noting, fullgraph=True)
            patch.setattr(torch, "compile", lambda module=None, **_: compile_whole(module, dynamic=False))
            patch.setattr(nnUNetTrainer, "_do_i_compile", lambda trainer: not on_slices)
        in_2d = on_slices or "VGG19" in name
        trainer = built_for_a_step(dataset, name, "2d" if in_2d else "3d_fullres")
        trainer.initialize()
        if backend and on_slices:
            compile_parts(trainer)
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
        loss = float(trainer.train_step(full_batch(trainer))["loss"])
        if backend:
            networks = {graph for graph in graphs if any("conv" in str(node.target) for node in graph.graph.nodes)}
            assert networks
    network = getattr(trainer.network, "_orig_mod", trainer.network)
    return loss, {key.replace("_orig_mod.", ""): value for key, value in network.named_parameters()}


def compile_parts(trainer: nnUNetTrainerCoarseToFine) -> None:
    """The choice of a box lies between two graphs."""
    network: Any = trainer.slice_network
    network.fine = torch.compile(network.fine)
    if isinstance(network, CoarseToFineNetwork):
        network.coarse = torch.compile(network.coarse)
