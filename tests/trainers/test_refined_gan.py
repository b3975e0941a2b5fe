"""One training step against a plain reading of Eq. 4 to 6, in every setting nnU-Net has."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.patch_discriminator import PatchDiscriminator
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.training.auxiliary import AuxiliaryNetwork
from nnunet_ext.training.base import AUXILIARY
from nnunet_ext.training.curves import panels
from tests.trainers.adversarial_step import assert_step_is_the_equation, dice_loss, reference_step
from tests.training import building
from tests.training.building import assert_loads_into_stock, build, cascade, random_batch, residual

GAN = "nnUNetTrainerRefinedGAN"

SETTINGS = {
    **building.SETTINGS,
    "saturating": {"generator_form": "saturating"},
    "non-saturating": {"generator_form": "non_saturating"},
    "strong": {"adversarial_weights": (0.5, 0.3)},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_equations_4_to_6(dataset, setting):
    assert_step_is_the_equation(build(dataset, GAN, **SETTINGS[setting]))


def test_ignored_voxels_do_not_reach_the_discriminator(dataset):
    labels = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    results = []
    for changed in (False, True):
        trainer = build(dataset, GAN, labels=labels)
        trainer.initialize()
        trainer.set_deep_supervision_enabled(True)
        batch = random_batch(trainer)
        real, fake = trainer._discriminator_inputs(
            torch.randn(2, 3, *batch["target"][0].shape[2:], generator=torch.Generator().manual_seed(7))
            + torch.tensor([10.0 * changed, 0.0, 0.0]).view(1, 3, 1, 1, 1) * (batch["target"][0] == 3),
            batch["target"][0],
        )
        results.append((real, fake))
    (real, fake), (real_changed, fake_changed) = results
    assert torch.equal(real, real_changed)
    assert torch.allclose(fake, fake_changed, atol=1e-6)
    ignored = (batch["target"][0] == 3).expand_as(fake)
    assert ignored.any()
    assert fake[ignored].abs().max() == 0
    assert real[ignored].abs().max() == 0


def test_anisotropic_plans_give_anisotropic_discriminators(dataset):
    def anisotropic(plans):
        plans["configurations"]["3d_fullres"]["spacing"] = [5.0, 0.8, 0.8]
        arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        arguments["kernel_sizes"][0] = [1, 3, 3]
        arguments["strides"] = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]

    trainer = build(dataset, GAN, change_plans=anisotropic)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    first, second = (helper.module.layers[0] for helper in trainer.auxiliary.values())
    assert first.kernel_size == (1, 7, 7)  # 5 mm against 0.8 mm
    assert second.kernel_size == (1, 7, 7)  # 5 mm against 1.6 mm at half resolution
    assert np.isfinite(trainer.train_step(random_batch(trainer))["loss"])


def test_residual_encoder_plans(dataset):
    trainer = build(dataset, GAN, change_plans=residual)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    assert np.isfinite(trainer.train_step(random_batch(trainer))["loss"])


def test_a_plan_with_one_output_is_refused_in_one_sentence(dataset):
    def two_stages(plans):
        arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        arguments |= {"n_stages": 2, "features_per_stage": [4, 8], "n_conv_per_stage": [1, 1]}
        arguments |= {"n_conv_per_stage_decoder": [1], "kernel_sizes": [[3] * 3] * 2, "strides": [[1] * 3, [2] * 3]}

    with pytest.raises(UserError, match=r"has 2 resolution stage\(s\), too few for nnU-Net's deep supervision"):
        build(dataset, GAN, change_plans=two_stages).initialize()
    with pytest.raises(UserError, match=r"needs 2 output\(s\) of deep supervision, but configuration 3d_fullres has 1"):
        build(dataset, GAN, enable_deep_supervision=False).initialize()


def test_auxiliary_gan_runs_without_deep_supervision(dataset):
    trainer = build(dataset, "nnUNetTrainerAuxiliaryGAN", enable_deep_supervision=False)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(False)
    assert list(trainer.auxiliary) == ["discriminator_1"]
    assert np.isfinite(trainer.train_step(random_batch(trainer))["loss"])


def test_basic_dice_has_no_cross_entropy_and_weights_follow_equation_4(dataset):
    trainer = build(dataset, GAN, region_loss="dice", basic_weights=(1.0, 0.1))
    trainer.initialize()
    batch = random_batch(trainer)
    trainer.set_deep_supervision_enabled(True)
    with torch.no_grad():
        outputs = trainer.network(batch["data"])

    fine, coarse = (dice_loss(trainer, outputs[i], batch["target"][i]) for i in range(2))
    expected = fine + 0.1 * coarse
    assert trainer.loss(outputs, batch["target"]).item() == pytest.approx(expected.item(), rel=1e-4)
    with pytest.raises(UserError, match="region_loss must be one of stock, dice, cross_entropy, got 'focal'"):
        build(dataset, GAN, region_loss="focal").initialize()
    with pytest.raises(UserError, match=r"basic of .* is called region_loss now"):
        build(dataset, GAN, basic="dice").initialize()
    with pytest.raises(UserError, match="generator_form must be one of"):
        build(dataset, GAN, generator_form="hinge").initialize()


@pytest.mark.parametrize(("stages", "weights"), [(3, [1, 0.1]), (4, [2 / 3, 1 / 3, 0]), (5, [4 / 7, 2 / 7, 1 / 7, 0])])
@pytest.mark.parametrize("distributed", [False, True])
def test_every_output_that_is_judged_has_a_basic_loss(dataset, stages, weights, distributed):
    """nnU-Net gives the last output no weight, which of two is the one that w3 of Eq. 4 weighs."""

    def of_stages(plans):
        arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        arguments |= {"n_stages": stages, "features_per_stage": [4] * stages, "n_conv_per_stage": [1] * stages}
        arguments |= {"n_conv_per_stage_decoder": [1] * (stages - 1), "kernel_sizes": [[3] * 3] * stages}
        arguments["strides"] = [[1] * 3, *[[2] * 3] * (stages - 1)]

    trainer = build(dataset, GAN, change_plans=of_stages)
    trainer.is_ddp = distributed
    assert trainer._build_loss().weight_factors == pytest.approx(weights, abs=2e-6)
    trainer = build(dataset, "nnUNetTrainerAuxiliaryGAN", change_plans=of_stages)
    assert trainer._build_loss().weight_factors == pytest.approx([1, 0] if stages == 3 else weights)


def test_the_second_output_learns_from_w3_of_equation_4(dataset):
    trainer = build(dataset, GAN, region_loss="dice", adversarial_weights=(0.0, 0.0))
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    batch = random_batch(trainer)
    with torch.no_grad():
        outputs = trainer.network(batch["data"])
    fine, coarse = (dice_loss(trainer, outputs[i], batch["target"][i]).item() for i in range(2))
    assert trainer.train_step(batch)["loss"] == pytest.approx(fine + 0.1 * coarse, rel=1e-4)
    head = trainer.network.decoder.seg_layers[0]  # of the output at half resolution
    assert head.weight.grad.abs().max() > 1e-4
    with pytest.raises(UserError, match=r"basic_weights of .* must be above 0 for the 2 output\(s\)"):
        build(dataset, GAN, basic_weights=(1.0,)).initialize()


def test_the_weights_are_the_paper_s():
    refined, auxiliary = (find_trainer(name).options_class() for name in (GAN, "nnUNetTrainerAuxiliaryGAN"))
    assert refined.adversarial_weights == (0.001, 0.0002)  # w2 and w4 of Eq. 4
    assert refined.basic_weight_of_last == 0.1  # w3 of Eq. 4, with w1 = 1
    assert auxiliary.adversarial_weights == (0.001,)  # w2; Eq. 2 has 1
    assert refined.generator_form == auxiliary.generator_form == "saturating"  # log(1 - D) of Eq. 2 and 4
    assert not refined.conditional  # Eq. 2 and 4: D sees the maps alone
    layers = [layer for layer in PatchDiscriminator(2, (1.0, 1.0)).layers if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in layers] == [(7, 7), (5, 5), (4, 4)]  # "Auxiliary constraint"


def test_discriminators_run_in_float32_and_have_no_gradient_scaler(dataset, monkeypatch):
    made = []

    class Recorded(AuxiliaryNetwork):
        def __init__(self, *args, **kwargs):
            made.append(kwargs["mixed_precision"])
            super().__init__(*args, **kwargs)

    monkeypatch.setattr("nnunet_ext.training.base.AuxiliaryNetwork", Recorded)
    trainer = build(dataset, GAN)
    trainer.initialize()
    assert made == [False, False]
    state = trainer.extension_state()
    state[AUXILIARY]["discriminator_1"]["grad_scaler"] = {"scale": 65536.0}  # as older checkpoints have it
    trainer.load_extension_state(state)
    assert trainer.auxiliary["discriminator_1"].grad_scaler is None


def test_the_network_is_that_of_stock_nnunet(dataset, tmp_path):
    trainer = build(dataset, GAN)
    trainer.initialize()
    assert_loads_into_stock(dataset, trainer, str(tmp_path / "gan.pth"))


def test_the_cascade_configuration(dataset):
    trainer = build(dataset, GAN, configuration="3d_cascade_fullres", change_plans=cascade)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    assert trainer.num_input_channels == 3  # the image and two organs of the previous stage
    assert np.isfinite(trainer.train_step(random_batch(trainer))["loss"])

    previous = Path(trainer.folder_with_segs_from_previous_stage)
    previous.mkdir(parents=True)
    training, validation = trainer.do_split()
    for case in training:
        (previous / f"{case}.b2nd").touch()
    message = rf"has no prediction of {validation[0]} \(1 of 5 cases lack one\): train all folds of 3d_lowres"
    with pytest.raises(UserError, match=message):
        trainer.on_train_start()


def test_mixed_precision_keeps_the_adversarial_terms_in_float32(dataset, monkeypatch):
    trainer = build(dataset, GAN)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    batch = random_batch(trainer)
    full = reference_step(trainer, batch)[0]
    monkeypatch.setattr(trainer, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    seen = []
    for helper in trainer.auxiliary.values():
        step = helper.step
        monkeypatch.setattr(helper, "step", lambda loss, step=step: (seen.append(loss.dtype), step(loss)))
    output = trainer.train_step(batch)
    assert set(panels(output)) == {"loss", *trainer.curve_titles}
    assert seen == [torch.float32, torch.float32]
    assert all(torch.isfinite(p).all() for helper in trainer.auxiliary.values() for p in helper.module.parameters())
    for name, value in full.items():
        assert output[name] == pytest.approx(value, rel=0.05, abs=0.02), name


def test_discriminator_and_losses_compile_without_graph_breaks():
    from nnunet_ext.losses.adversarial import discriminator_loss, generator_loss
    from nnunet_ext.networks.patch_discriminator import PatchDiscriminator

    network = PatchDiscriminator(2, (5.0, 1.0, 1.0))

    def both(real, fake):
        fake_logits = network(fake)
        return discriminator_loss(network(real), fake_logits), generator_loss(fake_logits, "non_saturating")

    compiled = torch.compile(both, backend="eager", fullgraph=True)
    inputs = torch.rand(2, 1, 2, 8, 24, 24)
    for got, expected in zip(compiled(*inputs), both(*inputs), strict=True):
        assert torch.allclose(got, expected)
