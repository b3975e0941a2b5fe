"""One training step against a plain reading of Eq. 11, its schedules, and runs with nnU-Net's own loaders."""

import copy

import numpy as np
import pytest
import torch

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.distance_maps import signed_distance_maps
from nnunet_ext.losses.boundary import boundary_loss
from nnunet_ext.losses.uncertain_points import draw_points, uncertain_point_loss
from tests.training import building
from tests.training.building import REGIONS, build, cascade, random_batch, residual

MLL = "nnUNetTrainerMLL_20epochs_2iters"
SETTINGS = {
    **building.SETTINGS,
    "no deep supervision": {"enable_deep_supervision": False},
    "mm": {"boundary_scale": "mm"},
    "weights": {"boundary_weight": 0.3, "pixel_weight": 0.7, "points_per_voxel": 0.5, "importance": 0.5},
}


def batch_with_distances(trainer):
    """What the loader delivers: the targets, then the distance maps of the finest."""
    batch = random_batch(trainer)
    targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
    manager = trainer.label_manager
    labels = None if manager.has_regions else manager.foreground_labels
    spacing = trainer.configuration_manager.spacing
    relative = trainer.options.boundary_scale == "organ"
    told = (spacing, labels, manager.ignore_label, 10.0, relative, relative)
    maps = [signed_distance_maps(t.numpy(), *told) for t in targets[0]]
    return {**batch, "target": [*targets, torch.stack(maps)]}


def ready(dataset, name=MLL, epoch=15, **options):
    trainer = build(dataset, name, **options)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.current_epoch = epoch
    return trainer


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_equation_11(dataset, setting):
    trainer = ready(dataset, **SETTINGS[setting])
    batch = batch_with_distances(trainer)
    manager = trainer.label_manager
    network = copy.deepcopy(trainer.network)
    *targets, distance = batch["target"]
    outputs = network(batch["data"])
    region = trainer.loss(outputs, targets if trainer.enable_deep_supervision else targets[0])
    outputs = outputs if trainer.enable_deep_supervision else [outputs]
    foreground = torch.sigmoid(outputs[0]) if manager.has_regions else torch.softmax(outputs[0], 1)[:, 1:]
    boundary = boundary_loss(foreground, distance, relative=trainer.options.boundary_scale == "organ")
    coarse = outputs[0]  # of three resolutions, two outputs, of which nnU-Net gives the second no weight
    number = round(trainer.options.points_per_voxel * np.prod(coarse.shape[2:]) / 4 ** (coarse.ndim - 2))
    points = torch.Generator().set_state(trainer._point_generator().get_state())
    uncertain = round(trainer.options.importance * number)
    candidates = draw_points(2, 3 * number, coarse.ndim - 2, trainer.device, points)
    others = draw_points(2, number - uncertain, coarse.ndim - 2, trainer.device, points)
    pixel = uncertain_point_loss(coarse, targets[0], candidates, others, uncertain, trainer.label_layout)
    total = region + trainer.options.boundary_weight * boundary + trainer.options.pixel_weight * pixel
    total.backward()

    output = trainer.train_step(batch)

    for name, value in {"loss": total, "region": region, "boundary": boundary, "pixel": pixel}.items():
        assert output[name] == pytest.approx(value.item(), rel=1e-4), name
    assert set(trainer.curve_titles) == set(output) - {"loss"}
    gradients = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, parameter in trainer.network.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name] * min(1, 12 / norm), rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize(("outputs", "used"), [(2, 0), (3, 1), (4, 2), (6, 2)])
def test_the_pixel_term_acts_four_times_coarser_or_on_the_coarsest_trained(dataset, outputs, used):
    def stages(plans):
        arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        n = outputs + 1
        arguments |= {"n_stages": n, "features_per_stage": [4] * n, "n_conv_per_stage": [1] * n}
        arguments |= {"n_conv_per_stage_decoder": [1] * outputs, "kernel_sizes": [[3] * 3] * n}
        arguments["strides"] = [[1] * 3, *[[2] * 3] * outputs]
        plans["configurations"]["3d_fullres"]["patch_size"] = [2**outputs * 2] * 3

    trainer = build(dataset, MLL, change_plans=stages)
    trainer.loss = trainer._build_loss()
    maps = [torch.randn(1, 3, *[2**i] * 3, requires_grad=True) for i in range(outputs, 0, -1)]
    trainer._pixel(maps, torch.zeros(1, 1, *[2**outputs] * 3)).backward()
    assert [output.grad is not None for output in maps] == [i == used for i in range(outputs)]


def test_ablations_leave_their_term_out(dataset):
    boundary = ready(dataset, "nnUNetTrainerRegionBoundary")
    output = boundary.train_step(batch_with_distances(boundary))
    assert set(output) == {"loss", "region", "boundary"}
    pixel = ready(dataset, "nnUNetTrainerRegionPixel", epoch=900)
    output = pixel.train_step(random_batch(pixel))  # without distance maps
    assert set(output) == {"loss", "region", "pixel"}
    assert output["pixel"] > 0


@pytest.mark.parametrize("samples", [slice(None), slice(0, 1)])
def test_the_terms_of_other_samples_than_predicted_are_refused(dataset, samples):
    trainer = ready(dataset)
    data, target = trainer.to_device(batch_with_distances(trainer))
    outputs = trainer.network(data[1:] if samples == slice(None) else data)
    with pytest.raises(ValueError, match=r"distance maps of [12] samples, but [12] outputs"):
        trainer.added_terms(outputs, target, samples)


def test_terms_follow_the_epoch_also_of_a_resumed_run(dataset, tmp_path):
    trainer = ready(dataset, epoch=2)
    assert (trainer.boundary_factor, trainer.pixel_factor) == (pytest.approx(0.4), 0)
    trainer.current_epoch = 12
    trainer.train_step(batch_with_distances(trainer))
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    resumed = build(dataset, MLL)
    torch.manual_seed(77)  # a new process would not have our seed
    resumed.load_checkpoint(str(tmp_path / "c.pth"))
    resumed.set_deep_supervision_enabled(True)
    assert resumed.current_epoch == 13
    assert (resumed.boundary_factor, resumed.pixel_factor) == (1, 1)
    trainer.current_epoch = 13
    batch = batch_with_distances(trainer)
    expected = trainer.train_step(copy.deepcopy(batch))
    assert resumed.train_step(batch) == pytest.approx(expected, rel=1e-5)
    for p, q in zip(trainer.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)  # no gradient is left of the step before
    trainer.local_rank = 1
    trainer.current_epoch = 14
    assert not torch.equal(trainer._point_generator().get_state(), resumed._point_generator().get_state())


def test_the_learning_rate_restarts_where_asked_for(dataset):
    def rates(**options):
        trainer = build(dataset, MLL, **options)
        trainer.initialize()
        seen = []
        for epoch in range(20):
            trainer.lr_scheduler.step(epoch)
            seen.append(trainer.optimizer.param_groups[0]["lr"])
        return np.array(seen)

    stock, restarted = rates(), rates(restart_learning_rate=True)
    assert np.allclose(stock, 0.01 * (1 - np.arange(20) / 20) ** 0.9)
    assert np.allclose(restarted[:12], stock[:12])
    assert np.allclose(restarted[12:], 0.01 * (1 - np.arange(8) / 8) ** 0.9)
    assert np.allclose(rates(restart_learning_rate=True, pixel_weight=0.0), stock)


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_a_run_with_the_stock_loaders(dataset, configuration, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")  # the maps come from a worker
    trainer = build(dataset, "nnUNetTrainerMLL_3epochs_2iters", configuration=configuration)
    trainer.logger.plot_progress_png = lambda folder: None
    trainer.run_training()
    table = trainer.loss_curves.table()
    assert list(table.columns) == ["epoch", "region", "boundary", "pixel"]
    assert table["boundary"].ne(0).all()
    assert (table["pixel"].iloc[:2] == 0).all()
    assert table["pixel"].iloc[2] > 0


def test_distance_maps_are_those_of_the_augmented_target(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = build(dataset, MLL)
    trainer.initialize()
    train, validation = trainer.get_dataloaders()
    batch = next(train)
    *targets, distance = batch["target"]
    spacing = trainer.configuration_manager.spacing
    for b in range(2):
        expected = signed_distance_maps(
            targets[0][b].numpy(), spacing, [1, 2], None, trainer.options.exact_margin, True, True
        )
        assert torch.equal(distance[b], expected)
    assert distance.any()
    assert len(next(validation)["target"]) == len(targets)  # validation is that of stock nnU-Net


def test_mixed_precision_keeps_the_terms_in_float32(dataset, monkeypatch):
    trainer = ready(dataset)
    batch = batch_with_distances(trainer)
    monkeypatch.setattr(trainer, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    seen = {}
    network = trainer.network

    def recorded(data):
        seen["logits"] = network(data)[0].detach()
        return network(data)

    recorded.parameters = network.parameters
    monkeypatch.setattr(trainer, "network", recorded)
    output = trainer.train_step(batch)
    assert seen["logits"].dtype == torch.bfloat16
    expected = boundary_loss(torch.softmax(seen["logits"].double(), 1)[:, 1:], batch["target"][-1], relative=True)
    assert output["boundary"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_derived_trainer_that_drops_the_maps_is_told(dataset):
    trainer = ready(dataset)
    with pytest.raises(UserError, match="must extend get_training_transforms"):
        trainer.train_step(random_batch(trainer))


def test_what_the_transform_is_told_of_plans_and_labels(dataset):
    def anisotropic(plans):
        plans["configurations"]["3d_fullres"]["spacing"] = [5.0, 0.7, 1.3]

    def added(**options):
        trainer = build(dataset, MLL, change_plans=anisotropic, exact_margin=7.0, **options)
        patch = trainer.configuration_manager.patch_size
        return trainer.get_training_transforms(patch, (0, 0), None, (), True, [False]).transforms[-1]

    told = added(labels={"background": 0, "liver": 1, "spleen": 2, "ignore": 3})
    assert (told.spacing, told.labels, told.ignore_label, told.margin) == ((5.0, 0.7, 1.3), (1, 2), 3, 7.0)
    assert told.relative
    assert added(labels=REGIONS).labels is None
    assert not added(boundary_scale="mm").relative
    assert not added(boundary_scale="mm", boundary_absent=True).absent
    assert (added(boundary_absent=False).absent, added(boundary_absent=True).absent) == (False, True)


def test_an_unknown_scale_is_refused(dataset):
    with pytest.raises(UserError, match="boundary_scale must be one of organ, mm, got 'voxels'"):
        ready(dataset, boundary_scale="voxels")


def test_the_cascade_and_residual_plans(dataset):
    for options in ({"configuration": "3d_cascade_fullres", "change_plans": cascade}, {"change_plans": residual}):
        trainer = ready(dataset, **options)
        assert np.isfinite(trainer.train_step(batch_with_distances(trainer))["loss"])
