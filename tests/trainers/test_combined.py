"""The multi-level terms in other trainers: what they add to a step, term by term, and runs with the loaders of each."""

import copy
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from nnunet_ext.losses.boundary import boundary_loss
from nnunet_ext.losses.uncertain_points import draw_points, uncertain_point_loss
from nnunet_ext.trainers.cascaded import CascadedOptions, nnUNetTrainerCascaded
from nnunet_ext.training.schedules import RestartingPolyLR
from nnunet_ext.training.structural import StructuralOptions, StructuralTrainer
from tests.trainers.test_pann import made
from tests.training.building import build, built_for_a_step, full_batch, run_epochs

COMBINED = ["nnUNetTrainerRefinedGAN", "nnUNetTrainerPaNN", "nnUNetTrainerSDNet", "nnUNetTrainerSDNetLabelled"]


def four_stages(plans):
    """Three outputs, of which the pixel term acts on the last that is trained."""
    arguments = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    arguments |= {"n_stages": 4, "features_per_stage": [4] * 4, "n_conv_per_stage": [1] * 4}
    arguments |= {"n_conv_per_stage_decoder": [1] * 3, "kernel_sizes": [[3] * 2] * 4}
    arguments["strides"] = [[1] * 2, *[[2] * 2] * 3]
    plans["configurations"]["2d"]["patch_size"] = [32, 32]


SETTINGS = {
    "3d": {},
    "four stages": {"configuration": "2d", "change_plans": four_stages},
    "2d": {"configuration": "2d"},
    "regions with ignore label": {"labels": {"background": 0, "both": [1, 2], "spleen": 2, "ignore": 3}},
    "no deep supervision": {"enable_deep_supervision": False},
}


def ready(dataset, name, **options):
    torch.manual_seed(0)
    trainer = built_for_a_step(dataset, f"{name}_20epochs_2iters", **options)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    return trainer


def step_of(trainer, batch, monkeypatch):
    """What a step returns, its loss and the gradients of the network, neither clipped nor followed."""
    losses = []
    monkeypatch.setattr(trainer, "network_step", losses.append)
    output = trainer.train_step(batch)
    named = dict(trainer.network.named_parameters())
    gradients = torch.autograd.grad(losses[0], list(named.values()), allow_unused=True)
    return output, losses[0].detach(), dict(zip(named, gradients, strict=True))


def added_plainly(trainer, finest, coarse, target, distance, points):
    """alpha * E_B + beta * E_P of Eq. 11 for the outputs of one network, and the two terms."""
    manager, options = trainer.label_manager, trainer.options
    foreground = torch.sigmoid(finest) if manager.has_regions else torch.softmax(finest, 1)[:, 1:]
    boundary = boundary_loss(foreground, distance, relative=True)
    number = round(np.prod(finest.shape[2:]) / 4 ** (finest.ndim - 2))
    uncertain = round(0.75 * number)
    candidates = draw_points(len(finest), 3 * number, finest.ndim - 2, trainer.device, points)
    others = draw_points(len(finest), number - uncertain, finest.ndim - 2, trainer.device, points)
    pixel = uncertain_point_loss(coarse, target, candidates, others, uncertain, trainer.label_layout)
    return options.boundary_weight * boundary + options.pixel_weight * pixel, boundary, pixel


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_adds_the_two_terms_of_true_labels(dataset, monkeypatch, name, setting):
    options = dict(SETTINGS[setting])
    if name == "nnUNetTrainerRefinedGAN" and setting == "no deep supervision":
        options["adversarial_weights"] = (0.001,)
    alone = ready(dataset, name, **options)
    combined = ready(dataset, f"{name}MLL", boundary_weight=0.3, pixel_weight=0.7, **options)
    torch.manual_seed(1)
    batch = full_batch(combined)
    *targets, distance = batch["target"]
    full_batch(alone)  # set to the last epoch
    network = copy.deepcopy(combined.network)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), alone.network.parameters(), strict=True))
    points = torch.Generator().set_state(combined._point_generator().get_state())

    whole = targets if combined.enable_deep_supervision else targets[0]
    _, loss, gradients = step_of(alone, {**batch, "target": whole}, monkeypatch)
    output, combined_loss, combined_gradients = step_of(combined, batch, monkeypatch)

    data, rows, share = batch["data"], slice(None), 1.0
    if name == "nnUNetTrainerPaNN":  # the first of two is partially labelled
        rows, share = [1], 0.5
    elif "unlabelled" in batch:
        data = torch.cat([data, batch["unlabelled"]])
    answers = network(data) if name.startswith("nnUNetTrainerSDNet") else [network(data)]
    total, terms = torch.zeros(()), []
    # Of two outputs nnU-Net trains the finest alone, RefinedGAN, which judges it, the other one too; of three, two.
    last = int(setting == "four stages" or (name == "nnUNetTrainerRefinedGAN" and combined.enable_deep_supervision))
    for answer in answers:
        scales = answer if combined.enable_deep_supervision else [answer]
        finest, coarse = (scales[i][: len(distance)][rows] for i in (0, last))
        value, *each = added_plainly(combined, finest, coarse, targets[0][rows], distance[rows], points)
        total = total + share * value
        terms.append(torch.stack(each))

    assert (combined_loss - loss).item() == pytest.approx(total.item(), rel=1e-3)
    assert [output["boundary"], output["pixel"]] == pytest.approx(torch.stack(terms).mean(0).tolist(), rel=1e-4)
    parameters = dict(network.named_parameters())
    expected = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    for parameter, gradient in zip(parameters, expected, strict=True):
        if gradient is not None:
            difference = combined_gradients[parameter] - gradients[parameter]
            assert torch.allclose(difference, gradient, rtol=1e-2, atol=1e-4), parameter


def test_stage_1_of_pann_has_the_terms_of_all_samples(dataset, monkeypatch):
    combined, alone = (ready(dataset, name) for name in ("nnUNetTrainerPaNNMLL", "nnUNetTrainerPaNN"))
    batch = full_batch(combined)
    for trainer in (combined, alone):
        trainer.current_epoch = 2
    *targets, distance = batch["target"]
    finest = combined.network(batch["data"])[0]
    boundary = boundary_loss(torch.softmax(finest, 1)[:, 1:], distance, relative=True)
    _, loss, _ = step_of(alone, {**batch, "target": targets}, monkeypatch)
    output, combined_loss, _ = step_of(combined, batch, monkeypatch)
    assert combined.boundary_factor == pytest.approx(0.4)
    assert (combined_loss - loss).item() == pytest.approx(0.4 * boundary.item(), rel=1e-3)
    assert set(output) == {"loss", "J_L", "boundary", "pixel"}
    assert (output["J_L"], output["pixel"]) == (pytest.approx(loss.item()), 0)


def test_a_trainer_with_the_stock_step_gets_the_terms(dataset, monkeypatch):
    @dataclass(frozen=True)
    class Both(StructuralOptions, CascadedOptions):
        pass

    class nnUNetTrainerCascadedTerms(StructuralTrainer, nnUNetTrainerCascaded):
        options_class = Both

    trainer = build(dataset, "", trainer=nnUNetTrainerCascadedTerms)
    trainer.initialize()
    output = trainer.train_step(full_batch(trainer))
    assert set(output) == {"loss", "region", "boundary", "pixel"}
    assert output["loss"] == pytest.approx(sum(output[term] for term in ("region", "boundary", "pixel")), rel=1e-5)
    assert trainer._distance is None  # nothing of the batch is kept


@pytest.mark.parametrize("name", COMBINED)
def test_the_curves_of_both_methods_are_kept_and_titled(dataset, name):
    combined, alone = (ready(dataset, each) for each in (f"{name}MLL", name))
    output = combined.train_step(full_batch(combined))
    assert set(output) == set(alone.train_step(full_batch(alone))) | {"boundary", "pixel"}
    assert set(combined.curve_titles) == set(alone.curve_titles) | {"boundary", "pixel"}


@pytest.mark.parametrize("regions", [False, True])
def test_unlabelled_images_get_no_distance_maps(unlabelled_dataset, monkeypatch, regions):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    labels = {"background": 0, "both": [1, 2], "spleen": 2} if regions else None
    trainer = build(unlabelled_dataset, "nnUNetTrainerSDNetMLL_2epochs_2iters", labels=labels)
    run_epochs(trainer, 2)
    batch = next(trainer.dataloader_train)
    assert batch["target"][-1].is_floating_point()
    assert batch["target"][-1].shape == (1, 2, *batch["data"].shape[2:])
    assert isinstance(batch["unlabelled"], torch.Tensor)
    unlabelled = trainer.dataloader_train.unlabelled.loader.data_loader.transforms.transforms
    assert not any(isinstance(each, trainer.distance_maps) for each in unlabelled)
    assert trainer.augments_targets


def test_the_learning_rate_restarts_when_that_of_pann_does(dataset):
    trainer = ready(dataset, "nnUNetTrainerPaNNMLL", restart_learning_rate=True)
    alone = ready(dataset, "nnUNetTrainerPaNN", restart_learning_rate=True)
    assert isinstance(trainer.lr_scheduler, RestartingPolyLR)
    assert vars(trainer.lr_scheduler).keys() == vars(alone.lr_scheduler).keys()
    for key, value in vars(alone.lr_scheduler).items():
        if isinstance(value, (int, float)):
            assert getattr(trainer.lr_scheduler, key) == value, key


def test_pann_with_the_terms_runs_through_both_stages(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = made(dataset, "nnUNetTrainerPaNNMLL_2epochs_3iters", first_stage=0.5, partial_share=0.5, prior_patches=5)
    run_epochs(trainer, 2)
    table = trainer.loss_curves.table()
    assert list(table["J_P"].notna()) == [False, True]
    assert table[["J_L", "boundary", "pixel"]].notna().all(None)
    assert table["boundary"].ne(0).all()
