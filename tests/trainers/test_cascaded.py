"""Cascades with auto-context, with and without discriminator and VGG-19, in every setting nnU-Net has."""

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.cascade import normalise
from nnunet_ext.plugin.lookup import find_trainer
from tests.conftest import Dataset
from tests.trainers.adversarial_step import assert_step_is_the_equation, dice_loss, reference_step
from tests.training import building
from tests.training.building import build, cascade, random_batch, residual, run_epochs
from tests.training.narrow_vgg19 import NARROW, use_narrow, weights_of
from tests.training.processes import in_two_processes

CASCADED, GAN = "nnUNetTrainerCascaded", "nnUNetTrainerCascadedGAN"
VGG, VGG_GAN = "nnUNetTrainerCascadedVGG19", "nnUNetTrainerCascadedVGG19GAN"


@pytest.fixture
def narrow(monkeypatch):
    use_narrow(monkeypatch)


def first_output(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


SETTINGS = {
    **building.SETTINGS,
    "strong": {"adversarial_weights": (0.5,)},
    "two discriminators": {"adversarial_weights": (0.5, 0.3)},
    "residual": {"change_plans": residual},
    "cascade configuration": {"configuration": "3d_cascade_fullres", "change_plans": cascade},
    "no deep supervision": {"enable_deep_supervision": False},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_equations_1_and_2(dataset, setting):
    trainer = build(dataset, GAN, **SETTINGS[setting])
    assert_step_is_the_equation(trainer)
    discriminator = trainer.auxiliary["discriminator_1"].module
    heads = trainer.label_manager.num_segmentation_heads
    assert discriminator.layers[0].in_channels == trainer.num_input_channels + heads


def test_equation_1_with_lambda_150(dataset):
    trainer = build(dataset, GAN, region_loss="dice", enable_deep_supervision=False)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    batch = random_batch(trainer)
    with torch.no_grad():
        dice = dice_loss(trainer, trainer.network(batch["data"]), batch["target"])
    output = trainer.train_step(batch)
    minus_log_d = output["adversarial_1"]
    assert minus_log_d > 0
    assert 150 * output["loss"] == pytest.approx(minus_log_d + 150 * dice.item(), rel=1e-4)


def test_the_discriminators_are_pix2pix_s_and_a_quarter_as_wide():
    gan, with_vgg = (find_trainer(name).options_class() for name in (GAN, VGG_GAN))
    assert gan.discriminator_strides == with_vgg.discriminator_strides == (2, 2, 2, 1, 1)
    assert with_vgg.discriminator_features == (64, 128, 256, 512)
    assert gan.discriminator_features == (16, 32, 64, 128)
    assert (gan.discriminator_betas, with_vgg.discriminator_betas) == ((0.5, 0.999), (0.9, 0.999))


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("name", [CASCADED, VGG])
def test_the_paper_s_loss_without_discriminator(dataset, name):
    trainer = build(dataset, name, "2d", region_loss="dice", enable_deep_supervision=False)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    batch = random_batch(trainer)
    with torch.no_grad():
        output = trainer.network(batch["data"])
        loss = trainer.loss(output, batch["target"]).item()
        assert loss == pytest.approx(dice_loss(trainer, output, batch["target"]).item(), rel=1e-4)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "configuration"), [(GAN, "3d_fullres"), (VGG_GAN, "2d")])
def test_mixed_precision_keeps_statistics_and_discriminator_in_float32(dataset, monkeypatch, name, configuration):
    trainer = build(dataset, name, configuration)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    batch = random_batch(trainer)
    full = reference_step(trainer, batch)[0]
    monkeypatch.setattr(trainer, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    made, seen, judged, given = [], [], [], []
    network, discriminator = trainer.network, trainer.auxiliary["discriminator_1"].module
    network.first.register_forward_hook(lambda module, inputs, output: made.append(output.detach()))
    network.second.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
    discriminator.register_forward_hook(lambda module, inputs, output: judged.append((inputs[0].dtype, output.dtype)))
    loss = trainer.loss
    monkeypatch.setattr(
        trainer, "loss", lambda outputs, target: (given.append(first_output(outputs).dtype), loss(outputs, target))[1]
    )
    output = trainer.train_step(batch)
    assert made[0].dtype == torch.bfloat16
    maps = made[0].double()
    axes = tuple(range(2, maps.ndim))
    expected = (maps - maps.mean(axes, keepdim=True)) / (maps.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(seen[0][:, trainer.num_input_channels :].double(), expected, atol=1e-4)  # bfloat16: 1e-2
    assert given == [torch.float32]  # the gradients of both terms are summed in float32
    assert judged == [(torch.float32, torch.float32)] * 3
    for term, value in full.items():
        assert output[term] == pytest.approx(value, rel=0.1, abs=0.05), term


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("labels", [None, building.SETTINGS["regions with ignore label"]["labels"]])
def test_a_step_with_vgg19_is_equations_1_and_2(dataset, labels):
    assert_step_is_the_equation(build(dataset, VGG_GAN, "2d", labels=labels))


@pytest.mark.parametrize("setting", ["3d", "2d"])
def test_the_cascade_is_two_networks_of_the_plans(dataset, setting):
    options = building.SETTINGS[setting]
    trainer, stock = build(dataset, CASCADED, **options), build(dataset, "nnUNetTrainer_1epochs", **options)
    trainer.initialize()
    stock.initialize()
    heads = trainer.label_manager.num_segmentation_heads
    first, second = trainer.network.first, trainer.network.second
    for network, extra in ((first, 0), (second, heads)):
        expected = {name: list(p.shape) for name, p in stock.network.named_parameters()}
        expected["encoder.stages.0.0.convs.0.conv.weight"][1] += extra
        if not extra:  # of the first network the full resolution alone is used
            expected = {name: shape for name, shape in expected.items() if "seg_layers.0" not in name}
        assert {name: list(p.shape) for name, p in network.named_parameters()} == expected
    of_image, of_maps = second.encoder.stages[0][0].convs[0].conv.weight.split([1, heads], 1)
    assert of_image.all() and not of_maps.any()  # the maps of an untrained network are noise
    torch.nn.init.normal_(of_maps.data)
    trainer.set_deep_supervision_enabled(True)
    data = random_batch(trainer)["data"]
    outputs = trainer.network(data)
    assert [o.shape for o in outputs] == [o.shape for o in stock.network(data)]
    context = normalise(first(data))
    assert context.shape == (*data.shape[:1], heads, *data.shape[2:])
    assert torch.allclose(outputs[0], first(data) + second(torch.cat([data, context], 1))[0], atol=1e-6)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(
    ("name", "configuration"), [(CASCADED, "3d_fullres"), (GAN, "2d"), (VGG, "2d"), (VGG_GAN, "2d")]
)
@pytest.mark.parametrize("chosen", [None, False])
def test_the_paper_s_form_is_an_option_that_prediction_knows(dataset, name, configuration, chosen):
    def changed(plans):
        if chosen is not None:
            plans["nnunet_ext"] = {name: {"residual": chosen}}

    trainer = build(dataset, name, configuration, change_plans=changed)
    trainer.initialize()
    predictor = trainer.build_network_architecture(  # as nnU-Net's predictor makes it, from the plans alone
        trainer.plans_manager, trainer.configuration_manager, 1, trainer.label_manager.num_segmentation_heads, False
    )
    assert trainer.network.residual is predictor.residual is (chosen is None)


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "configuration"), [(CASCADED, "3d_fullres"), (VGG, "2d")])
def test_every_weight_gets_a_gradient_as_distributed_training_asks(dataset, name, configuration):
    trainer = build(dataset, name, configuration)
    trainer.initialize()
    if trainer.enable_deep_supervision:
        trainer.is_ddp = True
        trainer.loss = trainer._build_loss()  # nnU-Net lets the coarsest output count a little then
        trainer.is_ddp = False
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    batch = random_batch(trainer)
    trainer.loss(trainer.network(batch["data"]), batch["target"]).backward()
    assert [n for n, p in trainer.network.named_parameters() if p.grad is None] == []


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize(("name", "configuration"), [(GAN, "3d_fullres"), (VGG_GAN, "2d")])
def test_train_continue_and_predict(dataset, monkeypatch, name, configuration):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    name = f"{name}_4epochs_3iters"
    first = build(dataset, name, configuration, save_every=1)
    run_epochs(first, 2)
    assert list(first.loss_curves.table()) == [
        "epoch", "basic", "discriminator_1", "adversarial_1", "probability_real_1", "probability_fake_1",
    ]  # fmt: skip

    monkeypatch.setenv("NNUNET_EXT_VGG19", "/nowhere")  # not needed to continue or to predict
    second = build(dataset, name, configuration)
    second.load_checkpoint(f"{second.output_folder}/checkpoint_latest.pth")
    for (key, p), q in zip(second.network.state_dict().items(), first.network.state_dict().values(), strict=True):
        assert torch.equal(p, q), key
    states = (trainer.auxiliary["discriminator_1"].module.state_dict().values() for trainer in (first, second))
    for p, q in zip(*states, strict=True):
        assert torch.equal(p, q)
    run_epochs(second, 3)

    second.save_checkpoint(f"{second.output_folder}/checkpoint_final.pth")
    cpu = torch.device("cpu")
    predictor = nnUNetPredictor(use_gaussian=False, use_mirroring=False, device=cpu, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(second.output_folder_base, (0,))
    patch = second.configuration_manager.patch_size
    data = torch.randn(1, *([1] if configuration == "2d" else []), *patch)
    got = predictor.predict_logits_from_preprocessed_data(data)
    second.set_deep_supervision_enabled(False)
    second.network.eval()
    with torch.no_grad():
        expected = second.network(data.reshape(1, 1, *patch))[0]
    assert torch.allclose(got.float(), expected.reshape(got.shape), atol=1e-2)


def _make(dataset: Dataset):
    return build(dataset, GAN)


def _train(trainer, rank: int):
    losses = [trainer.train_step(random_batch(trainer, seed=2 * step + rank))["loss"] for step in range(2)]
    networks = (trainer.network.module, trainer.auxiliary["discriminator_1"].module)
    return {"losses": losses, "weights": [network.state_dict() for network in networks]}


def test_two_processes_keep_the_same_networks(dataset, tmp_path):
    ranks = in_two_processes(_make, _train, dataset, tmp_path / "ranks")
    assert ranks[0]["losses"] != ranks[1]["losses"]  # their samples differ
    for mine, theirs in zip(ranks[0]["weights"], ranks[1]["weights"], strict=True):
        for name, value in mine.items():
            assert torch.equal(value, theirs[name]), name


# ---- VGG-19 ----


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_both_encoders_start_from_the_given_file(dataset, monkeypatch, tmp_path, suffix, narrow):
    from safetensors.torch import save_file

    weights = weights_of(NARROW, 0)
    file = tmp_path / f"vgg{suffix}"
    (torch.save if suffix == ".pth" else save_file)(weights, file)
    monkeypatch.setenv("NNUNET_EXT_VGG19", str(file))
    trainer = build(dataset, VGG, "2d")
    trainer.initialize()
    for stage in (trainer.network.first, trainer.network.second):
        last = stage.encoder.blocks[-1][-2]
        assert torch.equal(last.weight, weights["features.34.weight"])
        assert torch.equal(last.bias, weights["features.34.bias"])
    # One image and three classes: the image is red and green, the maps share blue.
    red, green, blue = weights["features.0.weight"].unbind(1)
    expected = torch.stack([red, green, blue / 3, blue / 3, blue / 3], 1)
    assert torch.allclose(trainer.network.second.encoder.blocks[0][0].weight, expected)
    assert torch.equal(trainer.network.first.encoder.blocks[0][0].weight, weights["features.0.weight"])


def test_what_cannot_work_is_refused_in_one_sentence(dataset, monkeypatch, tmp_path, narrow):
    with pytest.raises(UserError, match="is a 2D network, but configuration 3d_fullres is 3D: use 2d"):
        build(dataset, VGG).initialize()

    def small(plans):
        plans["configurations"]["2d"]["patch_size"] = [32, 8]

    with pytest.raises(UserError, match=r"patches of 16 x 16 pixels or more, .* are \[32, 8\]"):
        build(dataset, VGG, "2d", change_plans=small).initialize()
    with pytest.raises(UserError, match="has one output"):
        build(dataset, VGG, "2d", enable_deep_supervision=True).initialize()
    file = tmp_path / "file.pth"
    monkeypatch.setenv("NNUNET_EXT_VGG19", str(file))
    for contents, message in (
        ({"a": torch.ones(1)}, "does not hold the weights of VGG-19: features.0 should have"),
        ({"model": {"a": torch.ones(1)}}, "holds no weights by name"),
        (torch.ones(1), "holds no weights by name"),
    ):
        torch.save(contents, file)
        with pytest.raises(UserError, match=message):
            build(dataset, VGG, "2d").initialize()
    for suffix in (".pth", ".safetensors"):
        damaged = tmp_path / f"damaged{suffix}"
        damaged.write_bytes(b"no weights")
        monkeypatch.setenv("NNUNET_EXT_VGG19", str(damaged))
        with pytest.raises(UserError, match="is no file of weights") as raised:
            build(dataset, VGG, "2d").initialize()
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("NNUNET_EXT_VGG19", str(tmp_path / "nothing.pth"))
    with pytest.raises(UserError, match="which is not a file"):
        build(dataset, VGG, "2d").initialize()


@pytest.mark.usefixtures("narrow")
def test_vgg19_learns_with_adam_at_the_rate_of_the_paper(dataset):
    trainer = build(dataset, VGG, "2d")
    trainer.initialize()
    assert type(trainer.optimizer) is torch.optim.Adam  # AdamW is one of its subclasses
    trainer.on_train_epoch_start()
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)
    assert np.isfinite(trainer.train_step(random_batch(trainer))["loss"])


def test_the_vgg19_of_the_paper_has_the_size_of_two_vgg19_unets(dataset, monkeypatch):
    monkeypatch.setenv("NNUNET_EXT_VGG19", "random")
    trainer = build(dataset, VGG, "2d")
    assert isinstance(trainer, nnUNetTrainer)
    network = trainer.build_network_architecture(trainer.plans_manager, trainer.configuration_manager, 1, 2, False)
    convolutions = 20_024_384  # of VGG-19
    assert sum(p.numel() for p in network.first.encoder.parameters()) == convolutions
    fourth_channel = 64 * 3 * 3  # two maps share blue
    assert sum(p.numel() for p in network.second.encoder.parameters()) == convolutions + fourth_channel
