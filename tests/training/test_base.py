"""Checkpoints, resuming and curves of the trainers here."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.core.errors import UserError
from nnunet_ext.training.base import ExtendedTrainer
from nnunet_ext.training.checkpoint import EXTENSION_KEY, write_checkpoint
from tests.training.building import build, random_batch, trained_a_step

NAME = "nnUNetTrainerRefinedGAN_4epochs_2iters"


@pytest.fixture
def single_process(monkeypatch):
    """Batches are drawn in this process, so that seeds decide them."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


def seed_everything(seed=0):
    np.random.seed(seed)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(seed)


def run_epochs(trainer, last):
    """nnU-Net's own training loop, stopped after epoch ``last`` as if killed; without its slow plot."""
    trainer.logger.plot_progress_png = lambda folder: None

    class KilledError(Exception):
        pass

    original = trainer.on_epoch_end

    def on_epoch_end():
        original()
        if trainer.current_epoch == last:
            raise KilledError

    if last < trainer.num_epochs:
        trainer.on_epoch_end = on_epoch_end
        with pytest.raises(KilledError):
            trainer.run_training()
    else:
        trainer.run_training()


def test_two_and_two_epochs_are_four_epochs(dataset, single_process):
    seed_everything()
    straight = build(dataset, NAME)
    run_epochs(straight, 4)
    curves = straight.loss_curves.table()
    weights = straight.network.state_dict()
    log = straight.logger.local_logger.my_fantastic_logging

    seed_everything()
    first = build(dataset, NAME, save_every=1)
    run_epochs(first, 2)
    seed_everything(99)  # a new process would not have our seed
    second = build(dataset, NAME)
    second.load_checkpoint(f"{second.output_folder}/checkpoint_latest.pth")
    assert second.current_epoch == 2
    run_epochs(second, 4)

    pd.testing.assert_frame_equal(second.loss_curves.table(), curves, rtol=1e-4)
    resumed = second.logger.local_logger.my_fantastic_logging
    for key in ("train_losses", "val_losses", "lrs"):
        assert np.allclose(resumed[key], log[key], rtol=1e-4), key
    for name, value in second.network.state_dict().items():
        assert torch.allclose(value, weights[name], atol=1e-5), name
    for name, network in second.auxiliary.items():
        for p, q in zip(network.module.parameters(), straight.auxiliary[name].module.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)
    written = pd.read_csv(f"{second.output_folder}/loss_terms.csv")
    assert list(written["epoch"]) == [0, 1, 2, 3]
    assert Path(second.output_folder, "loss_terms.png").read_bytes().startswith(b"\x89PNG")


def test_the_plans_of_a_model_hold_all_options(dataset, monkeypatch):
    """Inference, and a version with other defaults, builds the network that was trained."""
    cascaded = "nnUNetTrainerCascaded_1epochs_1iters"
    trainer = build(dataset, cascaded, residual=False)
    trainer.on_train_start()
    trainer.on_train_end()
    model = Path(trainer.output_folder_base)
    plans = PlansManager(str(model / "plans.json"))
    assert type(trainer).options_in(plans) == trainer.options
    monkeypatch.setattr(type(trainer), "residual", True, raising=False)  # as another default
    assert type(trainer).options_in(plans).residual is False
    # What a training reads is as it was.
    assert "nnunet_ext" not in json.loads((dataset.preprocessed / f"{plans.plans_name}.json").read_text())
    assert "nnunet_ext" not in trainer.my_init_kwargs["plans"]


def test_a_checkpoint_without_our_key_resumes_with_fresh_auxiliary_networks(dataset, tmp_path):
    trainer = trained_a_step(dataset, NAME)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    checkpoint = torch.load(tmp_path / "c.pth", weights_only=False)
    del checkpoint[EXTENSION_KEY]
    write_checkpoint(checkpoint, tmp_path / "old.pth")
    resumed = build(dataset, NAME)
    resumed.load_checkpoint(str(tmp_path / "old.pth"))
    assert not any(network.was_restored for network in resumed.auxiliary.values())


@pytest.mark.parametrize("name", [NAME, "nnUNetTrainerSDNetLabelled"])
def test_gradients_are_clipped_to_nnunet_s_norm_of_each_network(dataset, name):
    trainer = build(dataset, name)
    trainer.initialize()
    trainer.network_step(1e3 * sum(p.sum() for p in trainer.network.parameters()))
    for network in trainer.networks() if hasattr(trainer, "networks") else [trainer.network]:
        norm = torch.stack([p.grad.norm() for p in network.parameters()]).norm()
        assert norm.item() == pytest.approx(12, rel=1e-4)


@pytest.mark.parametrize("compiles", [False, True])
def test_auxiliary_networks_compile_where_nnunet_does_and_they_may(dataset, monkeypatch, compiles):
    monkeypatch.setattr("nnunet_ext.training.base.AuxiliaryNetwork", lambda *_, **options: options["compile_module"])
    trainer = build(dataset, NAME)
    trainer._do_i_compile = lambda: compiles
    assert trainer.make_auxiliary(None, None, 0.1) == compiles
    assert trainer.make_auxiliary(None, None, 0.1, may_compile=False) is False


def test_disabled_checkpointing_writes_nothing(dataset, tmp_path):
    trainer = trained_a_step(dataset, NAME, disable_checkpointing=True)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    assert not (tmp_path / "c.pth").exists()


def test_stock_checkpoint_starts_a_run_as_pretrained_weights(dataset, tmp_path):
    from nnunetv2.run.run_training import maybe_load_checkpoint

    stock = build(dataset, "nnUNetTrainer")
    stock.initialize()
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    trainer = build(dataset, NAME)
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "stock.pth"))
    weights = stock.network.state_dict()
    for name, value in trainer.network.state_dict().items():
        if ".seg_layers." not in name:
            assert torch.equal(value, weights[name]), name


def test_terms_reach_the_log_and_additional_loggers(dataset):
    trainer = trained_a_step(dataset, NAME)
    seen = {}

    class Logger:
        def log(self, key, value, step):
            seen[key] = value

    trainer.logger.loggers.append(Logger())
    outputs = [trainer.train_step(random_batch(trainer, seed)) for seed in range(2)]
    trainer.on_train_epoch_end(outputs)
    mean = np.mean([output["adversarial_1"] for output in outputs])
    assert seen["loss_terms/adversarial_1"] == pytest.approx(mean, rel=1e-5)
    log = Path(trainer.log_file).read_text()
    assert "Options of nnUNetTrainerRefinedGAN: region_loss stock, " in log
    assert "loss terms: basic " in log
    assert json.dumps(trainer.loss_curves.state_dict())  # plain numbers, whatever torch version reads them


def with_stages(number):
    """Plans of the first ``number`` resolution stages."""

    def change(plans):
        arguments = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
        stages = arguments["n_stages"]
        for key, value in arguments.items():
            if isinstance(value, list):
                arguments[key] = value[: number - (stages - len(value))]
        arguments["n_stages"] = number

    return change


@pytest.mark.parametrize("stages", [2, 3])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_two_stages_are_refused_where_stock_training_is_nan(dataset, single_process, stages, deep_supervision):
    options = {"change_plans": with_stages(stages), "enable_deep_supervision": deep_supervision}
    stock = build(dataset, "nnUNetTrainer", **options)
    stock.initialize()
    is_nan = bool(np.isnan(stock.train_step(random_batch(stock))["loss"]))
    assert is_nan == (deep_supervision and stages == 2)
    for name in ("nnUNetTrainerRefinedGAN", "nnUNetTrainerSDNetLabelled", "nnUNetTrainerPartial"):
        trainer = build(dataset, name, **options)
        if is_nan:
            with pytest.raises(
                UserError, match=r"3d_fullres of .*tinyPlans.json has 2 resolution stage.*at least three"
            ):
                trainer.initialize()
            trainer.is_ddp = True  # a weight of 1e-6 in place of 0
            ExtendedTrainer.check_supported(trainer)
        elif name != "nnUNetTrainerPartial":
            ExtendedTrainer.check_supported(trainer)
