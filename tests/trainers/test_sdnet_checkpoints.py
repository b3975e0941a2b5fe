"""SD-Net: resuming, checkpoints of other runs and versions, inference from them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

from nnunet_ext.core.errors import UserError
from nnunet_ext.networks.dual import DualNetwork
from nnunet_ext.training.checkpoint import EXTENSION_KEY
from nnunet_ext.training.dual import NAMES
from nnunet_ext.training.options import changed
from tests.trainers.sdnet_runs import LABELLED, SDNET, halves, ready, seed
from tests.training.building import build, random_batch, run_epochs

pytestmark = pytest.mark.usefixtures("usual_sdnet_run")


@pytest.mark.parametrize("start", [0.0, 0.25, 0.5])  # unlabelled samples join at once, before, at the resumed epoch
def test_a_resumed_run_equals_one_that_never_stopped(unlabelled_dataset, start):
    options = {"save_every": 1, "inference": "best", "configuration": "2d", "unlabelled_start": start}
    seed()
    run_epochs(straight := build(unlabelled_dataset, SDNET, **options), 4)
    seed()
    run_epochs(first := build(unlabelled_dataset, SDNET, **options), 2)
    seed(99)  # a new process would not have our seed
    second = build(unlabelled_dataset, SDNET, **options)
    checkpoint = torch.load(f"{first.output_folder}/checkpoint_latest.pth", weights_only=False)
    if start == 0:  # as an earlier version wrote them
        states = checkpoint[EXTENSION_KEY]["unlabelled_random_states"]
        checkpoint[EXTENSION_KEY]["unlabelled_random_states"] = tuple(states.values())
        assert list(states) == ["python", "numpy", "torch"]
        torch.save(checkpoint, f"{first.output_folder}/checkpoint_latest.pth")
    second.load_checkpoint(f"{first.output_folder}/checkpoint_latest.pth")
    assert second.current_epoch == 2
    assert second._pseudo_dice == first._pseudo_dice
    run_epochs(second, 4)

    table, expected = second.loss_curves.table(), straight.loss_curves.table()
    assert list(table.columns) == list(expected.columns)
    assert expected["unlabelled"].isna().tolist() == [epoch < 4 * start for epoch in range(4)]
    np.testing.assert_allclose(table.to_numpy(), expected.to_numpy(), rtol=1e-4, atol=1e-6)
    resumed, log = (t.logger.local_logger.my_fantastic_logging for t in (second, straight))
    for key in ("train_losses", "val_losses", "lrs", "mean_fg_dice"):
        np.testing.assert_allclose(resumed[key], log[key], rtol=1e-4, atol=1e-6, err_msg=key)
    for mine, theirs in zip(second.networks(), straight.networks(), strict=True):
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize(("inference", "weights"), [("mean", (0.5, 0.5)), ("second", (0, 1)), ("best", (1, 0))])
def test_a_checkpoint_predicts_as_the_trainer_does(unlabelled_dataset, inference, weights):
    trainer, _ = ready(unlabelled_dataset, inference=inference)
    trainer._pseudo_dice = [0.8, 0.7]
    trainer.on_validation_epoch_start()
    trainer.get_dataloaders()
    model = Path(trainer.output_folder_base)
    filename = Path(trainer.output_folder) / "checkpoint_final.pth"
    trainer.save_checkpoint(str(filename))
    for name in ("plans", "dataset"):
        source = trainer.plans_manager.plans if name == "plans" else trainer.dataset_json
        (model / f"{name}.json").write_text(json.dumps(source))
    stored = torch.load(filename, weights_only=False)
    assert stored[EXTENSION_KEY]["helpers"] == {}
    predictor = nnUNetPredictor(device=torch.device("cpu"), use_mirroring=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(model), (0,))
    assert isinstance(predictor.network, DualNetwork)
    assert predictor.network._shares == weights

    trainer.set_deep_supervision_enabled(False)
    x = torch.randn(1, 1, 16, 32, 32)
    with torch.no_grad():
        outputs = [network.eval()(x) for network in trainer.networks()]
        expected = weights[0] * outputs[0] + weights[1] * outputs[1]
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-2)
        assert torch.allclose(predictor.network.eval()(x), expected, atol=1e-5)
        with trainer.combined():
            assert torch.allclose(trainer.network(x), expected, atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(trainer.network(x), outputs, strict=True))

    again = build(unlabelled_dataset, SDNET, inference=inference)
    again.load_checkpoint(str(filename))
    assert again.shares == weights
    for mine, theirs in zip(again.networks(), trainer.networks(), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(mine.parameters(), theirs.parameters(), strict=True))


def test_the_first_network_can_start_from_a_stock_checkpoint(unlabelled_dataset, tmp_path):
    stock = build(unlabelled_dataset, "nnUNetTrainer")
    stock.initialize()
    with torch.no_grad():
        for parameter in stock.network.parameters():
            parameter.add_(1)
    stock.save_checkpoint(str(tmp_path / "stock.pth"))
    trainer = build(unlabelled_dataset, SDNET, first_from=str(tmp_path / "stock.pth"))
    trainer.initialize()
    for (name, p), q in zip(trainer.networks()[0].named_parameters(), stock.network.parameters(), strict=True):
        assert torch.equal(p, q) == (".seg_layers." not in name), name  # which nnU-Net leaves as they are
    trainer.save_checkpoint(str(tmp_path / "own.pth"))
    (tmp_path / "stock.pth").unlink()
    resumed = build(unlabelled_dataset, SDNET, first_from=str(tmp_path / "stock.pth"))
    resumed.load_checkpoint(str(tmp_path / "own.pth"))  # asks for nothing else


def test_pretrained_weights_are_those_of_two_networks(unlabelled_dataset, tmp_path):
    labelled, _ = ready(unlabelled_dataset, LABELLED)
    labelled.save_checkpoint(str(tmp_path / "labelled.pth"))
    trainer = build(unlabelled_dataset, SDNET)
    trainer.initialize()
    load_pretrained_weights(trainer.network, str(tmp_path / "labelled.pth"))
    for mine, theirs in zip(trainer.networks(), labelled.networks(), strict=True):
        for (name, p), q in zip(mine.named_parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q) == (".seg_layers." not in name), name


def test_best_is_chosen_before_the_validation_whose_score_a_checkpoint_is_kept_for(unlabelled_dataset, tmp_path):
    def stored(trainer):
        trainer.save_checkpoint(str(tmp_path / "c.pth"))
        return tuple(torch.load(tmp_path / "c.pth", weights_only=False)["network_weights"]["weights"].tolist())

    def counts(tp):
        return {f"{key}_hard": np.array([tp if key == "tp" else 1.0] * 2) for key in ("tp", "fp", "fn")}

    def epoch(trainer, tp):
        """A validation in which the networks find so much of the foreground."""
        trainer.on_validation_epoch_start()
        scored = trainer.shares
        each = {f"{key}: {name}": v for name, n in zip(NAMES, tp, strict=True) for key, v in counts(n).items()}
        trainer.on_validation_epoch_end([{"loss": 0.0, **counts(5), **each}])
        assert stored(trainer) == trainer.shares == scored
        return scored

    trainer, _ = ready(unlabelled_dataset, inference="best")
    assert epoch(trainer, (10, 1)) == (0.5, 0.5)
    assert epoch(trainer, (1, 100)) == (1, 0)
    trainer.options = changed(trainer.options, dice_momentum=0.0)
    assert epoch(trainer, (1, 100)) == (1, 0)
    again = build(unlabelled_dataset, SDNET, inference="best")
    again.load_checkpoint(str(tmp_path / "c.pth"))
    assert again.shares == (1, 0)
    assert epoch(again, (1, 100)) == (0, 1)


def test_a_checkpoint_of_two_optimisers_goes_on_as_they_would(unlabelled_dataset, tmp_path):
    """As earlier versions wrote it: the second network, an auxiliary one, had an optimiser of its own."""
    trainer, unlabelled = ready(unlabelled_dataset)
    batch = halves(random_batch(trainer), unlabelled)
    trainer.train_step(batch)
    trainer.save_checkpoint(str(tmp_path / "new.pth"))
    old = torch.load(tmp_path / "new.pth", weights_only=False)
    state, (group,) = old["optimizer_state"]["state"], old["optimizer_state"]["param_groups"]
    first, second = (len(list(network.parameters())) for network in trainer.networks())
    parts = [
        {
            "state": {i - start: state[i] for i in range(start, start + number) if i in state},
            "param_groups": [group | {"params": list(range(number))}],
        }
        for start, number in ((0, first), (first, second))
    ]
    old["optimizer_state"] = parts[0]
    old[EXTENSION_KEY]["helpers"] = {"second_network": {"optimizer": parts[1], "grad_scaler": None}}
    torch.save(old, tmp_path / "old.pth")
    assert len(state) > first  # both parts hold something
    after = []
    for file in ("new", "old"):
        again = build(unlabelled_dataset, SDNET)
        again.load_checkpoint(str(tmp_path / f"{file}.pth"))
        again.set_deep_supervision_enabled(True)
        again.train_step(batch)
        after.append(list(again.network.parameters()))
    assert all(torch.equal(p, q) for p, q in zip(*after, strict=True))


def test_each_sd_net_says_how_to_start_from_the_other(unlabelled_dataset, tmp_path):
    trainer, _ = ready(unlabelled_dataset, LABELLED)
    trainer.save_checkpoint(str(tmp_path / "labelled.pth"))
    with pytest.raises(UserError, match=r"start a new run from its weights with -pretrained_weights"):
        build(unlabelled_dataset, SDNET).load_checkpoint(str(tmp_path / "labelled.pth"))


def test_a_run_may_go_on_without_its_unlabelled_images(unlabelled_dataset):
    run_epochs(first := build(unlabelled_dataset, SDNET, save_every=1, configuration="2d"), 1)
    second = build(unlabelled_dataset, SDNET, configuration="2d", unlabelled_weight=0.0)
    second.load_checkpoint(f"{first.output_folder}/checkpoint_latest.pth")
    run_epochs(second, 2)
    assert "unlabelled" not in next(second.dataloader_train)


def test_compiled_networks_run_in_validation_and_leave_no_trace_in_checkpoints(unlabelled_dataset, tmp_path):
    trainer, _ = ready(unlabelled_dataset)
    names = {
        f"{part}.{n}"
        for part, net in zip(("first", "second"), trainer.networks(), strict=True)
        for n in net.state_dict()
    }
    calls = []

    def backend(module, inputs):
        calls.append(module)
        return module.forward

    trainer.network = torch.compile(trainer.network, backend=backend)
    trainer.save_checkpoint(str(tmp_path / "compiled.pth"))
    assert torch.load(tmp_path / "compiled.pth", weights_only=False)["network_weights"].keys() == names | {"weights"}
    trainer.load_checkpoint(str(tmp_path / "compiled.pth"))
    trainer.set_deep_supervision_enabled(False)
    with torch.no_grad(), trainer.combined():
        assert trainer.network(torch.zeros(1, 1, 16, 32, 32)).shape == (1, 3, 16, 32, 32)
    assert len(calls) == 1  # one graph of both
