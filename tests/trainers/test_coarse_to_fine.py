"""Coarse-to-fine networks and the multi-level structural network, in every setting nnU-Net has."""

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torchvision.models import resnet18

from nnunet_ext.core.errors import UserError
from nnunet_ext.losses.boundary import boundary_loss
from nnunet_ext.losses.multi_level import scaled_distance
from nnunet_ext.networks.slices import slices_of
from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerCoarseToFine, upsampling_of
from nnunet_ext.training.imagenet_weights import RESNET18
from tests.conftest import Dataset
from tests.training import building
from tests.training.building import build, run_epochs
from tests.training.processes import in_two_processes

TWO, MLN, WHOLE = "nnUNetTrainerCoarseToFine", "nnUNetTrainerMLN", "nnUNetTrainerMLNNoCoarse"
NO_PIXEL, NO_GUIDANCE = "nnUNetTrainerMLNNoPixel", "nnUNetTrainerMLNNoGuidance"
SETTINGS = {**building.SETTINGS, "cascade": {"configuration": "3d_cascade_fullres", "change_plans": building.cascade}}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few channels, small boxes, random weights."""
    narrow(functools.partial(monkeypatch.setattr, raising=False))
    monkeypatch.setenv(RESNET18.variable, "random")


def narrow(setattr_):
    for option in ("coarse_features", "fine_features"):
        setattr_(nnUNetTrainerCoarseToFine, option, (4, 4, 8, 8))
    for option, value in (("channels", 8), ("margin", 2), ("multiple", 4), ("rates", (2, 3)), ("upsampling", 1)):
        setattr_(nnUNetTrainerCoarseToFine, option, value)


def batch_of(trainer, seed=0):
    """A batch of two with a box of each class, and its distance maps, as the loader delivers them."""
    generator = torch.Generator().manual_seed(seed)
    patch = trainer.configuration_manager.patch_size
    manager = trainer.label_manager
    labels = torch.zeros((2, 1, *patch), dtype=torch.int16)
    labels[0, ..., 4:14, 5:17] = 1
    labels[1, ..., 8:20, 10:20] = 1
    labels[..., 9:12, 11:14] = 2
    if manager.has_ignore_label:
        labels[..., :3, :] = manager.all_labels[-1] + 1
    images = torch.randn(2, trainer.num_input_channels, *patch, generator=generator) + labels
    target = labels
    if manager.has_regions:
        regions = [*manager.foreground_regions, *([manager.ignore_label] if manager.has_ignore_label else [])]
        members = [torch.tensor(r if isinstance(r, (tuple, list)) else [r]) for r in regions]
        target = torch.cat([torch.isin(labels, m.short()) for m in members], 1)
    if trainer.options.boundary_weight:
        transform = trainer.get_training_transforms(patch, (0, 0), None, (0,), do_dummy_2d_data_aug=False).transforms[
            -1
        ]
        maps = [transform(image=images[i], segmentation=target[i])["segmentation"][1] for i in range(2)]
        target = [target, torch.stack(maps)]
    return {"data": images, "target": target, "keys": ["a", "b"]}


def prepared(dataset, name, epoch=90, **options):
    """A trainer in an epoch of a run of a hundred."""
    trainer = build(dataset, name, **options)
    trainer.num_epochs, trainer.current_epoch = 100, epoch
    trainer.initialize()
    trainer.network.train()
    if hasattr(trainer, "is_guided"):
        trainer.slice_network.set_guided(trainer.is_guided)
    return trainer


@pytest.mark.parametrize("name", [TWO, MLN])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_batch_is_learned_by_heart(dataset, name, setting):
    trainer = prepared(dataset, name, **SETTINGS[setting])
    batch = batch_of(trainer)
    steps = [trainer.train_step(batch) for _ in range(8)]
    assert set(steps[0]) == {
        "loss",
        "coarse",
        "region",
        "boundary",
        "pixel",
        *(["fusion", "outline"] if name == MLN else []),
    }
    assert all(np.isfinite(list(step.values())).all() for step in steps)
    assert steps[-1]["coarse"] + steps[-1]["region"] < steps[0]["coarse"] + steps[0]["region"] - 0.05
    trainer.on_validation_epoch_start()
    with torch.no_grad():
        assert np.isfinite(trainer.validation_step({**batch, "target": batch["target"][0]})["loss"])
    assert len(trainer.slice_network.rounds_used) == 2


EQUATION_13 = {
    **building.SETTINGS,
    "mm": {**building.SETTINGS["2d"], "boundary_scale": "mm"},
    "mm, regions": {**building.SETTINGS["regions"], "boundary_scale": "mm"},
}


@pytest.mark.parametrize("setting", EQUATION_13)
def test_a_step_is_equation_13(dataset, setting):
    """The sum of its terms, each against its own reference, with the weights of the paper."""
    trainer = prepared(dataset, MLN, **EQUATION_13[setting])
    batch = batch_of(trainer)
    fusion = [m for m in trainer.slice_network.fine.fusion.modules() if isinstance(m, torch.nn.Conv2d)]
    assert not fusion[-1].weight.any() and not fusion[-1].bias.any()  # at first the region branch is the prediction
    torch.nn.init.normal_(fusion[-1].weight)
    seen = []
    hook = trainer.network.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():  # the terms of a network that has not stepped yet
        trainer.network_step = lambda loss: None
        step = trainer.train_step(batch)
    hook.remove()
    (maps,) = seen
    target, distance = batch["target"]
    manager, relative = trainer.label_manager, trainer.options.boundary_scale == "organ"
    first = 0 if manager.has_regions else 1

    def cut(values):
        """In the windows, slice by slice."""
        return torch.stack([s[:, y : y + h, x : x + w] for s, (y, x, h, w) in zip(
            slices_of(values), maps["windows"].tolist(), strict=True)])  # fmt: skip

    def patches(slices):
        return slices.unflatten(0, (2, -1)).transpose(1, 2) if target.ndim == 5 else slices

    inner = cut(target)
    expected = {
        "coarse": trainer.loss(maps["coarse"], target).item(),
        "region": trainer.loss(maps["region"], patches(inner)).item(),
        "fusion": trainer.loss(maps["final"], patches(inner)).item(),
    }
    boundary = pixel = 0.0
    pixels = points = 0
    predicted = slices_of(maps["boundary"])[:, first:].double()
    classes = predicted.shape[1]
    for n in range(len(inner)):
        if manager.has_regions:
            known = inner[n, -1] == 0 if manager.has_ignore_label else torch.ones_like(inner[n, 0]).bool()
            inside = [inner[n, c] != 0 for c in range(classes)]
        else:
            known = inner[n, 0] != (manager.ignore_label if manager.has_ignore_label else -1)
            inside = [inner[n, 0] == label for label in manager.foreground_labels]
        for c in range(classes):
            phi = cut(distance)[n, c].double()
            phi = phi if relative else phi.clamp(-10, 10) / 10
            if not phi.any():
                phi = 1 - 2 * (inside[c] & known).double()
            p = predicted[n, c]
            term = torch.sigmoid(p) * phi + ((p - -5 * phi) / 5) ** 2
            boundary += float(term[known].sum())
        pixels += int(known.sum()) * classes
        for i, position in enumerate(maps["points"][n].tolist()):
            y, x = divmod(position, inner.shape[3])
            if not known[y, x]:
                continue
            logits = maps["pixel"][n, :, i].double()
            if manager.has_regions:
                right = torch.stack([torch.sigmoid(v if inside[c][y, x] else -v) for c, v in enumerate(logits)])
                pixel -= float(right.log().mean())
            else:
                pixel -= float(torch.log_softmax(logits, 0)[int(inner[n, 0, y, x])])
            points += 1
    expected["boundary"] = boundary / pixels
    expected["pixel"] = pixel / points
    if relative:
        foreground = trainer.label_layout.probabilities(slices_of(maps["final"]).double())[:, first:]
        expected["outline"] = boundary_loss(foreground, cut(distance).double(), relative=True).item()
    for name, value in expected.items():
        assert step[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    fine = sum(value for name, value in expected.items() if name != "coarse")
    assert step["loss"] == pytest.approx(0.3 * expected["coarse"] + 2 / 3 * fine, rel=1e-3)


def test_the_phases_and_terms_come_in_as_fractions_of_the_run(dataset):
    trainer = prepared(dataset, MLN, epoch=0)
    batch = batch_of(trainer)
    arguments = {}

    def spy(data, **given):
        arguments.update(given)
        return network(data, **given)

    network = trainer.network
    for epoch, apart, predicted, guided in (
        (0, True, False, False), (15, True, False, False), (16, False, False, False), (31, False, False, False),
        (32, False, True, False), (47, False, True, False), (48, False, True, True), (99, False, True, True),
    ):  # fmt: skip
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.network = spy
        spy.parameters = network.parameters
        step = trainer.train_step(batch)
        trainer.network = network
        assert arguments["apart"] is apart, epoch
        assert (arguments["truth"] is None) is predicted, epoch
        assert (arguments["noise"] is not None) is guided, epoch
        assert ({"pixel", "fusion"} <= set(step)) is guided, epoch
        assert trainer.boundary_factor == 1
        assert bool(trainer.slice_network.is_guided) is guided
        if not predicted:
            truth = arguments["truth"]
            assert torch.equal(truth, batch["target"][0] > 0)


@pytest.mark.parametrize("setting", ["ignore label", "regions", "regions with ignore label"])
def test_the_box_of_the_truth_is_that_of_all_classes_and_not_of_the_ignored(dataset, setting):
    trainer = prepared(dataset, MLN, **building.SETTINGS[setting])
    inside = trainer._foreground(batch_of(trainer)["target"][0])
    plain = prepared(dataset, MLN)
    expected = batch_of(plain)["target"][0] > 0
    if "ignore" in setting:
        expected[..., :3, :] = False
    assert torch.equal(inside, expected)


def test_the_distance_maps_are_those_of_slices(dataset):
    trainer = prepared(dataset, MLN)
    target, distance = batch_of(trainer)["target"]
    assert distance.shape == (2, 2, *target.shape[2:])
    phi = scaled_distance(slices_of(distance), slices_of(torch.cat([target == 1, target == 2], 1)))
    assert phi.amin() < 0 < phi.amax()
    for z in range(target.shape[2]):
        assert torch.equal(distance[:, :, z], distance[:, :, 0])  # each slice is alike


@pytest.mark.parametrize(("absent", "value"), [(False, 0), (True, 1)])
def test_slices_without_an_organ_have_maps_of_their_own(dataset, absent, value):
    trainer = build(dataset, TWO, boundary_absent=absent)
    patch = trainer.configuration_manager.patch_size
    added = trainer.get_training_transforms(patch, (0, 0), None, (), True, [False]).transforms[-1]
    segmentation = torch.zeros(1, 3, 8, 8, dtype=torch.int16)
    segmentation[0, 1, 2:5, 2:6] = 1
    _, maps = added(segmentation=segmentation)["segmentation"]
    assert maps.shape == (2, 3, 8, 8)
    assert (maps[0, [0, 2]] == value).all() and (maps[1] == value).all()
    assert maps[0, 1].amin() < 0 < maps[0, 1].amax()


@pytest.mark.parametrize(("name", "configuration"), [(MLN, "2d"), (MLN, "3d_fullres"), (TWO, "2d"), (WHOLE, "2d")])
def test_train_continue_and_predict(dataset, monkeypatch, tmp_path, name, configuration):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    name = f"{name}_4epochs_3iters"
    whole = build(dataset, name, configuration, save_every=1)
    run_epochs(whole, 2)
    kept = shutil.copy(f"{whole.output_folder}/checkpoint_latest.pth", tmp_path)
    whole.on_train_start = lambda: None  # its loaders run on
    run_epochs(whole, 4)
    half = build(dataset, name, configuration)
    monkeypatch.setenv(RESNET18.variable, "/nowhere")  # not needed to continue or to predict
    half.load_checkpoint(kept)
    run_epochs(half, 4)
    # As if it had never stopped.
    for (key, p), q in zip(half.network.state_dict().items(), whole.network.state_dict().values(), strict=True):
        assert torch.equal(p, q), key
    a, b = (trainer.loss_curves.table().to_numpy() for trainer in (half, whole))
    np.testing.assert_array_equal(a, b)
    terms = {"epoch", "region", "boundary", "pixel"}
    terms |= ({"coarse"} if WHOLE not in name else set()) | ({"fusion", "outline"} if TWO not in name else set())
    assert set(half.loss_curves.table()) == terms

    half.save_checkpoint(f"{half.output_folder}/checkpoint_final.pth")
    cpu = torch.device("cpu")
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=False, device=cpu, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(half.output_folder_base, (0,))
    patch = half.configuration_manager.patch_size
    data = torch.randn(1, *([1] if configuration == "2d" else []), *patch)
    got = predictor.predict_logits_from_preprocessed_data(data)
    half.network.eval()
    with torch.no_grad():
        expected = half.network(data.reshape(1, 1, *patch))[0]
    assert torch.allclose(got.float(), expected.reshape(got.shape), atol=1e-2)


def test_the_heads_are_those_of_this_dataset_also_with_pretrained_weights(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer = build(dataset, MLN, "2d")
    trainer.initialize()
    trainer.slice_network.set_regions(True)  # what nnU-Net would load from a run with regions
    trainer.on_train_start()
    assert not trainer.slice_network.has_regions


def test_mirrored_windows_slide_over_an_image(dataset):
    trainer = prepared(dataset, MLN, configuration="3d_fullres")
    trainer.slice_network.rounds_used.clear()
    predictor = nnUNetPredictor(0.5, use_mirroring=True, device=torch.device("cpu"), allow_tqdm=False)
    predictor.manual_initialization(
        trainer.network, trainer.plans_manager, trainer.configuration_manager, [trainer.network.state_dict()],
        trainer.dataset_json, MLN, (0, 1, 2),
    )  # fmt: skip
    logits = predictor.predict_logits_from_preprocessed_data(torch.randn(1, 20, 33, 40))
    assert logits.shape == (3, 20, 33, 40)
    assert logits.isfinite().all()
    assert len(trainer.slice_network.rounds_used) == 8 * 2 * 2 * 2  # mirrorings and windows


@pytest.mark.parametrize(("name", "absent"), [(NO_PIXEL, "attention"), (NO_GUIDANCE, "weight")])
def test_the_ablations_replace_what_they_leave_out(dataset, name, absent):
    trainer = prepared(dataset, name, configuration="2d")
    full = prepared(dataset, MLN, configuration="2d")
    modules = [{key.partition(".weight")[0] for key in t.slice_network.fine.state_dict()} for t in (trainer, full)]
    part = "pixel." if name == NO_PIXEL else "fusion."
    assert {m for m in modules[0] if not m.startswith(part)} == {m for m in modules[1] if not m.startswith(part)}
    assert any(absent in m for m in modules[1] if m.startswith(part))
    assert not any(absent in m for m in modules[0] if m.startswith(part))
    steps = [trainer.train_step(batch_of(trainer))["loss"] for _ in range(3)]
    assert np.isfinite(steps).all()


def test_the_log_says_how_often_inference_iterates(dataset, monkeypatch):
    trainer = prepared(dataset, TWO, configuration="2d")
    used, lines = trainer.slice_network.rounds_used, []
    trainer.print_to_log_file = lambda *args, **options: lines.append(" ".join(map(str, args)))

    def validated(*_):
        used.extend([(2, 0.98), (3, 0.99)])

    for hook in ("perform_actual_validation", "on_validation_epoch_end"):
        monkeypatch.setattr(nnUNetTrainer, hook, validated)
    used.append((9, 0.0))  # of another epoch
    trainer.perform_actual_validation()
    trainer.on_validation_epoch_start()
    trainer.on_validation_epoch_end([])
    assert lines == ["rounds: 2.50 on average, 1 of 2 patches converged"] * 2


def test_the_network_has_the_options_of_the_plans(dataset):
    def change(plans):
        plans["nnunet_ext"] = {"nnUNetTrainerMLN": {"channels": 16, "max_rounds": 3, "normalisation": "group"}}

    trainer = build(dataset, "nnUNetTrainerMLN_2epochs", "2d", change_plans=change)
    trainer.initialize()
    assert trainer.slice_network.max_rounds == 3
    assert trainer.slice_network.fine.region_head.in_channels == 16
    assert not [m for m in trainer.network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    usual = prepared(dataset, MLN, configuration="2d").network
    assert {type(m) for m in usual.modules() if "Norm" in type(m).__name__} == {torch.nn.BatchNorm2d}


@pytest.mark.parametrize(
    ("patch_size", "factor"),
    [((64, 64), 1), ((63, 512), 2), ((56, 40), 2), ((32, 80), 2), ((31, 80), 4), ((16, 16), 4), ((9, 128, 96), 1)],
)
def test_small_slices_are_enlarged_until_they_have_64_pixels_but_not_more_than_fourfold(patch_size, factor):
    assert upsampling_of(patch_size) == factor


@pytest.mark.parametrize(("option", "factor"), [(0, 2), (1, 1), (3, 3)])
def test_both_networks_see_enlarged_slices(dataset, option, factor):
    def change(plans):
        plans["nnunet_ext"] = {MLN: {"upsampling": option}}
        plans["configurations"]["2d"]["patch_size"] = [48, 40]

    trainer = build(dataset, f"{MLN}_2epochs", "2d", change_plans=change)
    trainer.initialize()
    sizes = []
    for network in (trainer.slice_network.coarse, trainer.slice_network.fine):
        network.backbone.register_forward_pre_hook(lambda module, x: sizes.append(tuple(x[0].shape[2:])))
    maps = trainer.network(torch.randn(2, trainer.num_input_channels, 48, 40))
    boxes = tuple(int(length) for length in maps["windows"][0, 2:])
    assert sizes == [(factor * 48, factor * 40), (factor * boxes[0], factor * boxes[1])]
    assert maps["coarse"].shape[2:] == (48, 40)
    assert maps["final"].shape[2:] == boxes


def test_the_paper_s_optimiser(dataset):
    trainer = prepared(dataset, TWO, configuration="2d")
    assert type(trainer.optimizer) is torch.optim.SGD
    trainer = build(dataset, TWO, "2d", optimiser="paper")
    trainer.num_epochs = 20
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.Adam
    rates = []
    for epoch in range(20):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"] / 1e-5)
    expected = [1] * 8 + [1 / 2] * 2 + [1 / 4] * 2  # halved every two epochs from the eighth on
    assert rates == pytest.approx(expected + [1] * 2 + [1 / 2] * 2 + [1 / 4] * 2 + [1 / 8] * 2)  # and begun anew


def test_what_cannot_work_is_refused_in_one_sentence(dataset, monkeypatch, tmp_path):
    def one_slice(plans):
        plans["configurations"]["2d"]["batch_size"] = 1

    with pytest.raises(UserError, match="the batch of configuration 2d is one slice: set batch_size to 2 or more"):
        build(dataset, MLN, "2d", change_plans=one_slice).initialize()
    with pytest.raises(UserError, match="has one output"):
        build(dataset, MLN, "2d", enable_deep_supervision=True).initialize()
    with pytest.raises(UserError, match="normalisation must be one of batch, group, got 'layer'"):
        build(dataset, MLN, "2d", normalisation="layer").initialize()
    with pytest.raises(UserError, match="optimiser must be one of stock, paper"):
        build(dataset, MLN, "2d", optimiser="Adam").initialize()
    with pytest.raises(UserError, match=r"channels must be a multiple of attention_heads \(3\), got 8"):
        build(dataset, MLN, "2d", attention_heads=3).initialize()
    monkeypatch.setenv(RESNET18.variable, str(tmp_path / "nothing.pth"))
    with pytest.raises(UserError, match=r"NNUNET_EXT_RESNET18 is .*, which is not a file"):
        build(dataset, MLN, "2d").initialize()
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    monkeypatch.setenv(RESNET18.variable, str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match=r"does not hold the weights of ResNet-18: conv1\.weight should have"):
        build(dataset, MLN, "2d").initialize()


def test_both_backbones_start_from_imagenet_where_there_is_a_file(dataset, monkeypatch, tmp_path):
    for option in ("coarse_features", "fine_features"):
        monkeypatch.setattr(nnUNetTrainerCoarseToFine, option, (64, 128, 256, 512), raising=False)
    torch.manual_seed(3)
    weights = resnet18().state_dict()
    torch.save(weights, tmp_path / "resnet18.pth")
    monkeypatch.setenv(RESNET18.variable, str(tmp_path / "resnet18.pth"))
    trainer = build(dataset, MLN, "2d")
    trainer.initialize()
    assert "start from the ImageNet weights of" in Path(trainer.log_file).read_text()
    network = trainer.slice_network
    for backbone, copies in ((network.coarse.backbone, 1), (network.fine.backbone, 4)):
        assert torch.equal(backbone.layer4[0].downsample[0].weight, weights["layer4.0.downsample.0.weight"])
        expected = torch.cat([weights["conv1.weight"] / copies] * copies, 1)  # one image, three maps: RGB four times
        assert torch.allclose(backbone.conv1.weight, expected)


def test_without_imagenet_weights_the_log_says_so(dataset, monkeypatch, tmp_path):
    monkeypatch.delenv(RESNET18.variable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("nnunet_ext.training.imagenet_weights.try_to_load_from_cache", lambda *names: None)
    lines = []
    trainer = build(dataset, MLN, "2d")
    trainer.print_to_log_file = lambda *args, **options: lines.append(" ".join(map(str, args)))
    trainer.initialize()
    assert any("All weights start at random" in line and "torchvision.models.resnet18" in line for line in lines)


def _make(dataset: Dataset):
    narrow(setattr)
    return build(dataset, MLN, "2d")


def _train(trainer, rank: int):
    losses = []
    for epoch in (0, 600):  # before the pixel branch joins and after
        trainer.current_epoch = epoch
        trainer.slice_network.set_guided(trainer.is_guided)
        losses += [trainer.train_step(batch_of(trainer, seed=2 * step + rank))["loss"] for step in range(2)]
    return {"losses": losses, "weights": dict(trainer.network.module.named_parameters())}


def test_two_processes_keep_the_same_networks(dataset, tmp_path):
    ranks = in_two_processes(_make, _train, dataset, tmp_path / "ranks")
    assert ranks[0]["losses"] != ranks[1]["losses"]  # their samples differ
    for name, value in ranks[0]["weights"].items():
        assert torch.equal(value, ranks[1]["weights"][name]), name
