"""Every training step on a simulated GPU: devices, types of losses, waits for the device, who gets gradients."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from nnunetv2.training.loss import compound_losses
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.losses.prior import DualVariables
from nnunet_ext.networks.coarse_to_fine import CoarseToFineNetwork
from nnunet_ext.networks.dual import DualNetwork
from nnunet_ext.networks.vgg19_unet import VGG19UNet
from nnunet_ext.plugin.registry import TRAINERS
from nnunet_ext.trainers import cascaded, coarse_to_fine, pann, sdnet
from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerMLN
from nnunet_ext.training import adversarial, structural
from nnunet_ext.training.deep_supervision import trained_outputs
from nnunet_ext.training.teacher import Teacher
from tests.conftest import Dataset
from tests.training.building import SETTINGS, build, random_batch
from tests.training.simulated_cuda import DEVICE, Simulation, simulated_cuda

STOCK = "nnUNetTrainer"
ONLY_2D = {"nnUNetTrainerCascadedVGG19", "nnUNetTrainerCascadedVGG19GAN"}
# One trainer of each family in all settings, the others in one of each dimension.
IN_ALL_SETTINGS = (STOCK, "nnUNetTrainerRefinedGAN", "nnUNetTrainerMLL", "nnUNetTrainerPaNN", "nnUNetTrainerSDNet")
ALL_SETTINGS: dict[str, dict[str, Any]] = {**SETTINGS, "no deep supervision": {"enable_deep_supervision": False}}
CASES = [
    (name, setting)
    for name in (STOCK, *TRAINERS)
    for setting in (ALL_SETTINGS if name in IN_ALL_SETTINGS else ["3d", "2d"])
    if (setting == "2d" or name not in ONLY_2D)
] + [
    ("nnUNetTrainerAuxiliaryGAN", "no deep supervision"),
    ("nnUNetTrainerCascadedGAN", "regions with ignore label"),
    ("nnUNetTrainerSDNetLabelled", "regions with ignore label"),
]


@pytest.fixture(autouse=True)
def networks_that_can_be_simulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """VGG-19 with few channels, from random weights; the weights of two networks, which are values, as they begin."""
    monkeypatch.setattr(cascaded, "VGG19UNet", functools.partial(VGG19UNet, features=(4, 4, 8, 8, 8)))
    monkeypatch.setenv("NNUNET_EXT_VGG19", "random")
    monkeypatch.setattr(DualNetwork, "_read_weights", lambda network: (0.5, 0.5))


def ready(simulation: Simulation, dataset: Dataset, name: str, setting: str) -> tuple[Any, dict[str, Any]]:
    """A trainer in the last epoch, where all terms of its loss are on, and a batch as its loader gives it."""
    options = dict(ALL_SETTINGS[setting])
    if name == "nnUNetTrainerRefinedGAN" and not options.get("enable_deep_supervision", True):
        options["adversarial_weights"] = (0.001,)  # there is one output to judge
    trainer = build(dataset, name, device="cuda", **options)
    partly = isinstance(trainer, pann.nnUNetTrainerPaNN)
    if partly:
        training, validation = nnUNetTrainer.do_split(trainer)
        names = [label for label in trainer.dataset_json["labels"] if label not in ("background", "ignore")]
        annotated = dict.fromkeys([*training, *validation], names) | {training[1]: names[-1:]}
        trainer.dataset_json["annotated_labels"] = annotated
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.current_epoch = trainer.num_epochs - 1
    trainer.network.train()
    if isinstance(trainer, nnUNetTrainerMLN):
        trainer.slice_network.set_guided(True)
    if partly:
        trainer._teacher = Teacher(trainer.network)
        classes = trainer.label_manager.num_segmentation_heads
        if trainer.options.prior_weight:
            trainer._duals = DualVariables(torch.full((classes,), 1 / classes, device=trainer.device))
    batch = labelled_batch(trainer)
    if partly:
        batch["keys"] = [training[1], training[0]]
    return trainer, simulation.fake(batch)


def labelled_batch(trainer: Any) -> dict[str, Any]:
    """With distance maps, or unlabelled samples, where the trainer wants them."""
    batch = random_batch(trainer)
    if getattr(getattr(trainer, "options", None), "boundary_weight", 0):
        targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
        foreground = trainer.label_manager.num_segmentation_heads - (not trainer.label_manager.has_regions)
        maps = torch.zeros((2, foreground, *trainer.configuration_manager.patch_size), dtype=torch.float16)
        batch["target"] = [*targets, maps]
    if getattr(trainer, "unlabelled_batch_size", 0):
        batch["unlabelled"] = batch["data"][1:]
        batch |= {"data": batch["data"][:1], "keys": ["a"]}
        targets = batch["target"]
        batch["target"] = [target[:1] for target in targets] if isinstance(targets, list) else targets[:1]
    return batch


def without_training(trainer: Any) -> set[str]:
    """Parameters of heads that nnU-Net gives no weight, as in stock."""
    found = set()
    trained = trained_outputs(trainer.loss)
    for name, module in trainer.network.named_modules():
        heads = getattr(module, "seg_layers", [])
        if name.startswith("first") and isinstance(trainer, cascaded.nnUNetTrainerCascaded):
            continue  # only its finest head is left
        for i, head in enumerate(heads):
            if len(heads) - 1 - i not in trained:
                found |= {f"{name}.seg_layers.{i}.{parameter}" for parameter, _ in head.named_parameters()}
    return found


@pytest.mark.parametrize(("name", "setting"), CASES)
def test_a_step_stays_on_the_device(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, setting: str) -> None:
    with simulated_cuda(monkeypatch) as simulation:
        trainer, batch = ready(simulation, dataset, name, setting)
        calls = count_calls(trainer)
        simulation.record_terms(trainer)
        simulation.start_counting()
        trainer.train_step(batch)

        assert set(simulation.dtypes) == {torch.float32}
        # As in stock, which is one of the cases: the loss is fetched, the scaler asks whether gradients are finite.
        # Boxes that the coarse network predicts are fetched once.
        boxes = isinstance(trainer.network, CoarseToFineNetwork)
        assert simulation.waits.found == waits(trainer, calls, fetch=1 + boxes, scaler=1)
        assert_gradients(simulation, trainer)

        simulation.start_counting()
        calls.clear()
        trainer.network.eval()
        with torch.no_grad():
            result = trainer.validation_step(simulation.fake(random_batch(trainer)))
        assert {"loss", "tp_hard", "fp_hard", "fn_hard"} <= {*result}
        # the loss, and three counts; the boxes of a round, and whether it is the last one, which here it never is
        rounds = trainer.network.max_rounds if boxes else 0
        assert simulation.waits.found == waits(trainer, calls, fetch=4 + 2 * rounds, scaler=0)


@pytest.mark.parametrize("name", ["nnUNetTrainerCoarseToFine", "nnUNetTrainerMLN"])
def test_boxes_of_the_truth_are_found_on_the_host(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with simulated_cuda(monkeypatch) as simulation:
        trainer, batch = ready(simulation, dataset, name, "3d")
        trainer.current_epoch = 0
        simulation.start_counting()
        trainer.train_step(batch)
        assert simulation.waits.found == {"fetch": 1, "aten._local_scalar_dense": 1}


def count_calls(trainer: Any) -> list[None]:
    """A list that grows by one with every call of the region loss."""
    calls: list[None] = []
    trainer.loss.register_forward_hook(lambda *_: calls.append(None))
    return calls


def waits(trainer: Any, calls: list[None], fetch: int, scaler: int) -> dict[str, int]:
    """With an ignore label, nnU-Net's cross-entropy asks at every scale that trains if any voxel has a label."""
    manager = trainer.label_manager
    asks = manager.has_ignore_label and not manager.has_regions
    asked = len(calls) * len(trained_outputs(trainer.loss)) if asks else 0
    found = {"fetch": fetch, "aten._local_scalar_dense": scaler + asked}
    return {operation: number for operation, number in found.items() if number}


def assert_gradients(simulation: Simulation, trainer: Any) -> None:
    """All that train got a gradient, and each from its own loss alone."""
    own = {parameter: name for name, parameter in trainer.network.named_parameters()}
    helpers = getattr(trainer, "auxiliary", {}).values()
    *of_helpers, of_network = simulation.reached
    assert {own[parameter] for parameter in of_network} == {*own.values()} - without_training(trainer)
    for helper, found in zip(helpers, of_helpers, strict=True):
        assert {*found} == {*helper.module.parameters()}
    everything = [*own, *(parameter for helper in helpers for parameter in helper.module.parameters())]
    assert {parameter.device for parameter in everything} == {trainer.device}
    assert {parameter.grad.device for parameter in everything if parameter.grad is not None} == {trainer.device}


# A function or method that a step calls, and which of its arguments is put on the CPU.
MISPLACED = [
    ("nnUNetTrainerRefinedGAN", adversarial.PatchDiscriminator, "forward", 1),
    ("nnUNetTrainerMLL", structural, "boundary_loss_of_logits", 1),
    ("nnUNetTrainerMLL", structural, "uncertain_point_loss", 1),
    ("nnUNetTrainerMLL", structural, "uncertain_point_loss", 2),
    ("nnUNetTrainerPaNN", pann, "pseudo_labels", 1),
    ("nnUNetTrainerPaNN", pann, "complete_target", 1),
    ("nnUNetTrainerPaNN", pann.DualVariables, "loss", 1),
    ("nnUNetTrainerSDNet", sdnet, "difference_loss", 1),
    ("nnUNetTrainerSDNet", sdnet, "difference_region", 1),
    ("nnUNetTrainerSDNet", sdnet, "dice_sums", 1),
    ("nnUNetTrainerSDNet", sdnet, "teaching_loss", 1),
    ("nnUNetTrainerCascadedGAN", adversarial.PatchDiscriminator, "forward", 1),
    ("nnUNetTrainerMLN", coarse_to_fine, "scaled_distance", 0),
    ("nnUNetTrainerMLN", coarse_to_fine, "signed_distance_loss", 0),
    ("nnUNetTrainerMLN", coarse_to_fine, "signed_distance_loss", 1),
    ("nnUNetTrainerMLN", coarse_to_fine, "pixel_loss", 0),
    ("nnUNetTrainerMLN", coarse_to_fine, "pixel_loss", 2),
    # the region losses, those of nnU-Net too, by their first argument and by their target
    *[("nnUNetTrainer", compound_losses.DC_and_CE_loss, "forward", position) for position in (1, 2)],
    *[("nnUNetTrainerPaNN", compound_losses.DC_and_CE_loss, "forward", position) for position in (1, 2)],
    *[("nnUNetTrainerCascaded", compound_losses.DC_and_CE_loss, "forward", position) for position in (1, 2)],
    *[("nnUNetTrainerCoarseToFine", compound_losses.DC_and_CE_loss, "forward", position) for position in (1, 2)],
    ("nnUNetTrainerPaNN", pann, "mean_prediction", 0),
]


@pytest.mark.parametrize(("name", "owner", "function", "position"), MISPLACED)
def test_a_tensor_on_the_host_in_a_loss_is_found(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, name: str, owner: Any, function: str, position: int
) -> None:
    original = getattr(owner, function)

    def misplaced(*args: Any, **kwargs: Any) -> Any:
        return original(*args[:position], args[position].cpu(), *args[position + 1 :], **kwargs)

    with simulated_cuda(monkeypatch) as simulation:
        trainer, batch = ready(simulation, dataset, name, "3d")
        monkeypatch.setattr(owner, function, misplaced)
        with pytest.raises(RuntimeError, match="device"):
            trainer.train_step(batch)


@pytest.mark.parametrize("function", ["discriminator_loss", "adversarial_loss"])
def test_logits_of_a_discriminator_on_the_host_are_counted(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    """Their mean, a single number, may be of either device: the copy is what shows."""
    with simulated_cuda(monkeypatch) as simulation:
        trainer, batch = ready(simulation, dataset, "nnUNetTrainerAuxiliaryGAN", "3d")
        owner = trainer if function == "adversarial_loss" else adversarial
        original = getattr(owner, function)
        if function == "adversarial_loss":
            original.register_forward_pre_hook(lambda _, inputs: (inputs[0].cpu(),))
        else:
            monkeypatch.setattr(owner, function, lambda real, fake: original(real.cpu(), fake))
        simulation.start_counting()
        trainer.train_step(batch)
        assert simulation.waits.found["fetch"] == 2  # and the loss


def test_what_the_host_waits_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with simulated_cuda(monkeypatch) as simulation:
        maps = torch.ones(2, 3, device=DEVICE)

        def waits_for(operation: Any) -> dict[str, int]:
            simulation.start_counting()
            operation()
            return dict(simulation.waits.found)

        value, fetch, send = ({kind: 1} for kind in ("aten._local_scalar_dense", "fetch", "send"))
        assert waits_for(lambda: maps.sum().item()) == value
        assert waits_for(lambda: bool(maps.any())) == value
        assert waits_for(maps.cpu) == fetch
        assert waits_for(lambda: maps.sum().cpu().numpy()) == fetch
        assert waits_for(lambda: torch.empty(2, 3).copy_(maps)) == fetch
        assert waits_for(lambda: torch.tensor([1.0], device=DEVICE)) == send
        assert waits_for(lambda: maps[:, [0, 2]]) == send
        assert waits_for(lambda: maps.copy_(torch.ones(2, 3))) == send
        assert waits_for(lambda: torch.ones(2).to(DEVICE, non_blocking=True)) == {}
        assert waits_for(lambda: maps.masked_fill(maps > 0, 0).sum()) == {}
        for shapeless in (maps.nonzero, lambda: maps[maps > 0], lambda: maps.masked_select(maps > 0), maps.unique):
            with pytest.raises(AssertionError, match="waits for the device"):
                shapeless()
