"""One training step against a plain reading of Eq. 3 to 8 and Algorithm 1, resuming, inference, what cannot work."""

import copy
import json
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.run.load_pretrained_weights import load_pretrained_weights
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled import next_stage
from nnunet_ext.data.unlabelled.preprocess import preprocess_images
from nnunet_ext.data.unlabelled.store import StoreRecord, case_files, store_folder
from nnunet_ext.data.unlabelled_loader import UnlabelledDataLoader
from nnunet_ext.networks.dual import DualNetwork
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.trainers import sdnet
from nnunet_ext.training.checkpoint import EXTENSION_KEY
from nnunet_ext.training.dual import NAMES
from nnunet_ext.training.options import changed
from tests.training.building import SETTINGS, build, cascade, random_batch, residual, run_epochs

SDNET = "nnUNetTrainerSDNet_4epochs_3iters"
LABELLED = "nnUNetTrainerSDNetLabelled_4epochs_3iters"


@pytest.fixture(autouse=True)
def usual_run(monkeypatch):
    """Batches are drawn in this process, so that seeds decide them; all terms are there from the beginning."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setattr(sdnet.nnUNetTrainerSDNet, "unlabelled_start", 0.0, raising=False)
    monkeypatch.setattr(sdnet.nnUNetTrainerSDNet, "difference_start", 0.0, raising=False)


def seed(value=0):
    np.random.seed(value)  # noqa: NPY002 - nnU-Net draws from the global generator
    torch.manual_seed(value)


def ready(dataset, name=SDNET, **options):
    """Two networks whose predictions differ, and an unlabelled sample."""
    trainer = build(dataset, name, **options)
    generator = initialize_apart(trainer)
    shape = (1, trainer.num_input_channels, *trainer.configuration_manager.patch_size)
    return trainer, torch.randn(shape, generator=generator)


def initialize_apart(trainer):
    """Let the predictions of the two networks differ; returns the random numbers that go on."""
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for network in trainer.networks():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return generator


def halves(batch, unlabelled):
    """A batch of which only the first sample is labelled."""
    targets = batch["target"]
    first = [t[:1] for t in targets] if isinstance(targets, list) else targets[:1]
    return {"data": batch["data"][:1], "target": first, "keys": batch["keys"][:1], "unlabelled": unlabelled}


def first_output(outputs):
    return outputs[0] if isinstance(outputs, list) else outputs


@pytest.mark.parametrize(
    "setting",
    [*SETTINGS, "residual plans", "no deep supervision", "weights", "mean over the region", "whole batches of labels"],
)
def test_a_step_is_equations_3_to_8(unlabelled_dataset, setting):
    options = {
        "residual plans": {"change_plans": residual},
        "no deep supervision": {"enable_deep_supervision": False},
        "weights": {"difference_weight": 0.3, "unlabelled_weight": 0.6, "temperature": 0.4},
        "mean over the region": {"difference_mean": "region"},
        "whole batches of labels": {"name": LABELLED},
    }.get(setting) or SETTINGS.get(setting, {})
    trainer, unlabelled = ready(unlabelled_dataset, **options)
    batch = random_batch(trainer)
    with_labels_alone = setting == "whole batches of labels"
    batch = batch if with_labels_alone else halves(batch, unlabelled)
    regions, ignore = trainer.label_manager.has_regions, trainer.label_manager.ignore_label
    copies = [copy.deepcopy(network) for network in trainer.networks()]
    outputs = [network(batch["data"]) for network in copies]
    basic = [trainer.loss(o, batch["target"]) for o in outputs]
    logits = [first_output(o).double() for o in outputs]
    target = batch["target"][0] if trainer.enable_deep_supervision else batch["target"]
    classes = logits[0].shape[1]
    if regions:
        truth = target[:, :classes].double()
        known = torch.ones_like(target[:, :1]).bool() if ignore is None else ~target[:, classes:].bool()
        hard = [(z > 0).double() for z in logits]
        soft = [torch.sigmoid(z) for z in logits]
        differ = (hard[0] != hard[1]) & known
        foreground = slice(0, classes)
    else:
        known = torch.ones_like(target).bool() if ignore is None else target != ignore
        truth = torch.cat([(target == c).double() for c in range(classes)], 1)
        hard = [z.argmax(1, keepdim=True) for z in logits]
        soft = [torch.softmax(z, 1) for z in logits]
        differ = ((hard[0] != hard[1]) & known).expand_as(logits[0])
        foreground = slice(1, classes)
    assert 0.01 < differ.double().mean() < 0.99
    per_voxel = 1 if regions else classes / 2  # half the sum over the classes
    counted = differ if trainer.options.difference_mean == "region" else known.expand_as(differ)
    mistakes = [((p - truth) ** 2)[differ].sum() / counted.sum() * per_voxel for p in soft]
    dice = []
    for probability in soft:
        p, g = (probability * known)[:, foreground], (truth * known)[:, foreground]
        voxels = tuple(range(2, p.ndim))
        present = g.sum(voxels) > 0
        assert present.any()
        dice.append(1 - ((2 * (p * g).sum(voxels) + 1) / (p.sum(voxels) + g.sum(voxels) + 1))[present].mean())
    totals = [b + trainer.options.difference_weight * m for b, m in zip(basic, mistakes, strict=True)]
    expected = {"loss": None, "difference region": (differ if regions else differ[:, :1]).double().mean()}
    for i, name in enumerate(("first", "second")):
        expected[f"Dice loss: {name}"] = dice[i]
        expected[f"Dice + CE: {name}"] = basic[i]
        expected[f"difference: {name}"] = mistakes[i]
    if not with_labels_alone:
        teacher = 0 if dice[0] < dice[1] else 1
        prediction = [first_output(network(unlabelled)).double() for network in copies]
        squash = torch.sigmoid if regions else (lambda z: torch.softmax(z, 1))
        power = squash(prediction[teacher]).detach() ** (1 / trainer.options.temperature)
        rest = (1 - squash(prediction[teacher])).detach() ** (1 / trainer.options.temperature)
        pseudo = power / (power + rest) if regions else power / power.sum(1, keepdim=True)
        lesson = ((squash(prediction[1 - teacher]) - pseudo) ** 2).mean() * per_voxel
        totals[1 - teacher] = totals[1 - teacher] + trainer.options.unlabelled_weight * lesson
        expected |= {"first teaches": torch.tensor(float(teacher == 0)), "unlabelled": lesson}
    expected["loss"] = (totals[0] + totals[1]) / 2
    for total in totals:
        total.backward()

    output = trainer.train_step(batch)

    assert output.keys() == expected.keys()
    for name, value in expected.items():
        assert output[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    for network, reference in zip(trainer.networks(), copies, strict=True):
        gradients = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name, parameter in network.named_parameters():
            if name in gradients:
                scaled = gradients[name] * min(1, 12 / norm)
                assert torch.allclose(parameter.grad, scaled, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("first_is_better", [True, False])
def test_the_teacher_takes_no_gradient_and_the_better_one_teaches(unlabelled_dataset, monkeypatch, first_is_better):
    trainer, unlabelled = ready(unlabelled_dataset)
    batch = halves(random_batch(trainer), unlabelled)
    losses = torch.tensor([0.2, 0.3] if first_is_better else [0.3, 0.2])
    monkeypatch.setattr(trainer, "_dice_losses", lambda *args: losses)
    without = copy.deepcopy({"networks": trainer.networks()})["networks"]
    for network in without:
        outputs = network(batch["data"])
        trainer.loss(outputs, batch["target"]).backward()
    trainer.options = changed(trainer.options, difference_weight=0.0)
    output = trainer.train_step(batch)
    assert output["first teaches"] == first_is_better
    assert output["unlabelled"] > 1e-4
    equal = []
    for network, alone in zip(trainer.networks(), without, strict=True):
        gradients = {n: p.grad for n, p in alone.named_parameters() if p.grad is not None}
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
        mine = dict(network.named_parameters())
        equal.append(
            all(torch.allclose(mine[n].grad, g * min(1, 12 / norm), rtol=1e-3, atol=1e-5) for n, g in gradients.items())
        )
    assert equal == [first_is_better, not first_is_better]  # only the student differs from learning by labels alone


@pytest.mark.parametrize("start", [0.0, 0.25, 0.5])  # unlabelled samples join at once, before, at the resumed epoch
def test_a_resumed_run_equals_one_that_never_stopped(unlabelled_dataset, start):
    options = {"save_every": 1, "inference": "best", "configuration": "2d", "unlabelled_start": start}
    seed()
    run_epochs(straight := build(unlabelled_dataset, SDNET, **options), 4)
    seed()
    run_epochs(first := build(unlabelled_dataset, SDNET, **options), 2)
    seed(99)  # a new process would not have our seed
    second = build(unlabelled_dataset, SDNET, **options)
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


@pytest.fixture
def drawn(monkeypatch):
    """States of the random number generators with which each class of loader begins its batches."""
    seen = {}
    original = nnUNetDataLoader.generate_train_batch

    def recorded(loader):
        _, words, position, *_ = np.random.get_state()  # noqa: NPY002
        states = (hash((words.tobytes(), position)), hash(torch.get_rng_state().numpy().tobytes()))
        seen.setdefault(type(loader), []).append(states)
        return original(loader)

    monkeypatch.setattr(nnUNetDataLoader, "generate_train_batch", recorded)
    return seen


def test_unlabelled_patches_are_drawn_with_other_random_numbers(unlabelled_dataset, drawn):
    """Else both halves of a batch would be cut and turned alike."""
    seed()
    trainer = build(unlabelled_dataset, SDNET)
    trainer.on_train_start()
    for _ in range(4):
        next(trainer.dataloader_train)
    ours, stock = drawn[UnlabelledDataLoader], drawn[nnUNetDataLoader]
    assert len(ours) > 4
    assert len(stock) > 5
    for mine, theirs in zip(zip(*ours, strict=True), zip(*stock, strict=True), strict=True):
        assert len(set(mine)) == len(mine)
        assert not set(mine) & set(theirs)


def test_labelled_patches_are_those_of_a_stock_run(unlabelled_dataset):
    """Of the same seed: neither the second network nor the unlabelled loader takes random numbers from it."""
    seed()
    stock = build(unlabelled_dataset, "nnUNetTrainer")
    stock.on_train_start()
    expected = [next(stock.dataloader_train) for _ in range(2)]
    seed()
    labelled = build(unlabelled_dataset, LABELLED)
    labelled.on_train_start()
    for p, q in zip(labelled.networks()[0].parameters(), stock.network.parameters(), strict=True):
        assert torch.equal(p, q)
    for batch in expected:
        assert torch.equal(next(labelled.dataloader_train)["data"], batch["data"])
    assert "unlabelled" not in next(labelled.dataloader_train)

    batches = []
    for joined in (False, True):
        seed()
        trainer = build(unlabelled_dataset, SDNET)
        trainer.on_train_start()
        batches.append(
            [next(trainer.dataloader_train if joined else trainer.dataloader_train.labelled) for _ in range(3)]
        )
    for alone, together in zip(*batches, strict=True):
        assert alone["keys"] == together["keys"]
        assert torch.equal(alone["data"], together["data"])
        assert together["unlabelled"].shape == together["data"].shape == (1, 1, 16, 32, 32)
    own = trainer.dataloader_train.unlabelled
    assert {case for _ in range(30) for case in next(own)["keys"]} == {"one", "two", "three"}


def test_half_a_batch_is_centred_on_foreground_as_often_as_a_whole_one(unlabelled_dataset):
    def batch_of_five(plans):
        plans["configurations"]["2d"]["batch_size"] = 5

    for options, labelled, share in (({}, 1, 0.5), ({"configuration": "2d", "change_plans": batch_of_five}, 3, 0.4)):
        trainer = build(unlabelled_dataset, SDNET, **options)
        trainer.initialize()
        loader = trainer.get_dataloaders()[0].unlabelled.loader.data_loader
        assert loader.batch_size == trainer.batch_size - labelled
        assert not any(loader.get_do_oversample(i) for i in range(loader.batch_size))
        assert trainer.labelled_batch_size == labelled
        dataset = trainer.get_tr_and_val_datasets()[0]
        loader = trainer.make_training_loader(dataset)
        seed()
        drawn = [loader.get_do_oversample(i) for _ in range(600) for i in range(labelled)]
        assert np.mean(drawn) == pytest.approx(share, abs=0.06)


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


def test_validation_is_of_the_combination(unlabelled_dataset):
    trainer, _ = ready(unlabelled_dataset, labels=SETTINGS["ignore label"]["labels"], inference="second")
    batch = random_batch(trainer)
    expected = copy.deepcopy(batch)
    stock = build(unlabelled_dataset, "nnUNetTrainer", labels=SETTINGS["ignore label"]["labels"])
    stock.initialize()
    with torch.no_grad():
        stock.network = trainer.networks()[1]
        reference = stock.validation_step(copy.deepcopy(batch))
        result = trainer.validation_step(batch)
        stock.network = trainer.networks()[0]
        other = stock.validation_step(copy.deepcopy(expected))
    assert all(torch.equal(t, e) for t, e in zip(batch["target"], expected["target"], strict=True))
    for key in ("tp_hard", "fp_hard", "fn_hard"):
        assert np.array_equal(result[key], reference[key])
        assert np.array_equal(result[f"{key}: second"], reference[key])
        assert np.array_equal(result[f"{key}: first"], other[key])
    assert result["loss"] == pytest.approx(reference["loss"])
    trainer.on_validation_epoch_end([result, result])
    dice = [np.mean(2 * r["tp_hard"] / (2 * r["tp_hard"] + r["fp_hard"] + r["fn_hard"])) for r in (other, reference)]
    assert trainer._pseudo_dice == pytest.approx(dice)
    trainer.on_validation_epoch_end([result])
    assert trainer._pseudo_dice == pytest.approx(dice)
    trainer.options = changed(trainer.options, inference="best")
    trainer.on_validation_epoch_start()
    assert trainer.shares == ((1, 0) if dice[0] >= dice[1] else (0, 1))


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


def test_the_second_network_learns_as_the_first_one_does(unlabelled_dataset):
    class WithAdam(find_trainer(SDNET)):
        def configure_optimizers(self):
            made = torch.optim.AdamW(self.network.parameters(), lr=0.3)
            return made, PolyLRScheduler(made, 0.3, self.num_epochs, exponent=2)

    trainer, unlabelled = ready(unlabelled_dataset, trainer=WithAdam)
    trainer.current_epoch = 2
    trainer.on_train_epoch_start()
    (group,) = trainer.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.3 / 4)
    parameters = {id(p) for network in trainer.networks() for p in network.parameters()}
    assert {id(p) for p in group["params"]} == parameters
    before = [p.detach().clone() for p in trainer.networks()[1].parameters()]
    trainer.train_step(halves(random_batch(trainer), unlabelled))
    assert not all(torch.equal(p, q) for p, q in zip(trainer.networks()[1].parameters(), before, strict=True))


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


def test_a_run_that_nobody_seeded_draws_its_own_unlabelled_patches(unlabelled_dataset):
    states = []
    for value in (0, 0, 1):
        trainer = build(unlabelled_dataset, SDNET)  # seeds torch, as it is by default, always alike
        np.random.seed(value)  # noqa: NPY002 - as the operating system does
        trainer.on_train_start()
        states.append(trainer.dataloader_train.unlabelled.states[2])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_a_batch_without_foreground(unlabelled_dataset):
    trainer, unlabelled = ready(unlabelled_dataset)
    batch = halves(random_batch(trainer), unlabelled)
    batch["target"] = [torch.zeros_like(t) for t in batch["target"]]
    output = trainer.train_step(batch)
    assert all(np.isfinite(value) for value in output.values())
    assert output["Dice loss: first"] != output["Dice loss: second"]


def test_the_constants_are_the_paper_s(monkeypatch):
    monkeypatch.undo()  # the defaults of the class
    defaults = find_trainer("nnUNetTrainerSDNet").options_class()
    assert defaults.temperature == 0.1  # Algorithm 1, line 2
    assert (defaults.difference_weight, defaults.unlabelled_weight) == (1, 1)  # Eq. 7 and 8 print no factors
    assert defaults.unlabelled_ramp == 0
    assert (defaults.difference_start, defaults.unlabelled_start) == (0.5, 0.5)  # ours; 0 in the paper
    assert (defaults.difference_mean, defaults.inference) == ("all", "mean")
    assert find_trainer("nnUNetTrainerSDNetLabelled").unlabelled_weight == 0


def test_the_unlabelled_term_can_rise(unlabelled_dataset):
    trainer = build(unlabelled_dataset, SDNET, unlabelled_ramp=0.5, unlabelled_weight=3.0)
    factors = []
    for epoch in range(4):
        trainer.current_epoch = epoch
        factors.append(trainer.unlabelled_factor)
    assert factors == [0, 1.5, 3, 3]
    assert build(unlabelled_dataset, SDNET).unlabelled_factor == 1


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.3, 2), (0.5, 2), (0.99, 3)])
def test_unlabelled_samples_join_for_the_last_epoch_at_the_latest(unlabelled_dataset, start, first):
    trainer = build(unlabelled_dataset, SDNET, unlabelled_start=start, unlabelled_ramp=0.5)
    has, factors = [], []
    for epoch in range(4):
        trainer.current_epoch = epoch
        has.append(trainer.has_unlabelled)
        factors.append(trainer.unlabelled_factor)
    assert has == [epoch >= first for epoch in range(4)]
    assert factors[first:] == [0, 0.5, 1, 1][: 4 - first]


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.3, 2), (0.5, 2), (0.99, 3)])
def test_the_difference_term_comes_in_late(dataset, start, first):
    trainer, _ = ready(dataset, LABELLED, difference_start=start, difference_weight=3.0)
    batch = random_batch(trainer)
    for epoch in range(4):
        trainer.current_epoch = epoch
        terms = trainer.train_step(copy.deepcopy(batch))
        mistakes = terms["difference: first"] + terms["difference: second"]
        assert mistakes > 1e-3
        expected = terms["Dice + CE: first"] + terms["Dice + CE: second"] + 3 * mistakes * (epoch >= first)
        assert 2 * terms["loss"] == pytest.approx(expected, rel=1e-4)


def test_all_devices_choose_the_same_teacher(unlabelled_dataset, monkeypatch):
    trainer, _ = ready(unlabelled_dataset)
    classes = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).long()  # no foreground here, some elsewhere
    truth = torch.nn.functional.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2)]
    of_the_whole_batch = trainer._dice_losses(logits, truth, None)
    here = [each[:1] for each in logits]
    assert not torch.allclose(trainer._dice_losses(here, truth[:1], None), of_the_whole_batch)
    trainer.is_ddp = True
    elsewhere = torch.stack([sdnet.dice_sums(each[1:], truth[1:]) for each in logits])
    monkeypatch.setattr("nnunet_ext.trainers.sdnet.dist.all_reduce", lambda values: values.add_(elsewhere))
    assert torch.allclose(trainer._dice_losses(here, truth[:1], None), of_the_whole_batch)


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


def test_mixed_precision_keeps_the_terms_in_float32(unlabelled_dataset, monkeypatch):
    """What reaches each term and what comes out of it, though the networks compute in half precision."""
    trainer, unlabelled = ready(unlabelled_dataset)
    monkeypatch.setattr(trainer, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    half = []
    for network in trainer.networks():
        network.register_forward_hook(lambda module, inputs, outputs: half.append(first_output(outputs).dtype))
    seen = {}

    def recorded(name, term):
        def call(*args):
            result = term(*args)
            seen.setdefault(name, set()).update(a.dtype for a in (*args, result) if torch.is_tensor(a))
            return result

        return call

    for name in ("dice_sums", "difference_loss", "sharpen", "teaching_loss"):
        monkeypatch.setattr(sdnet, name, recorded(name, getattr(sdnet, name)))
    assert all(np.isfinite(value) for value in trainer.train_step(halves(random_batch(trainer), unlabelled)).values())
    assert half == [torch.bfloat16] * 2
    assert seen.keys() == {"dice_sums", "difference_loss", "sharpen", "teaching_loss"}
    for name, dtypes in seen.items():
        assert {dtype for dtype in dtypes if dtype.is_floating_point} == {torch.float32}, name


def test_what_cannot_work_is_refused_in_one_sentence(unlabelled_dataset):
    def batch_of_one(plans):
        plans["configurations"]["3d_fullres"]["batch_size"] = 1

    def other_network(plans):
        plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "some.package.Transformer"

    cases = {
        "1 sample on a device is too few: raise batch_size of configuration 3d_fullres in .*tinyPlans.json": {
            "change_plans": batch_of_one
        },
        "no residual counterpart of some.package.Transformer": {"change_plans": other_network},
        "inference must be one of mean, first, second, best, got 'both'": {"inference": "both"},
        "temperature must be a number above 0": {"temperature": 0},
        "unlabelled_start must be a number at least 0 and below 1, got 1": {"unlabelled_start": 1},
        "difference_start must be a number at least 0 and below 1, got -0.1": {"difference_start": -0.1},
        "difference_mean must be one of all, region, got 'voxels'": {"difference_mean": "voxels"},
    }
    for message, options in cases.items():
        with pytest.raises(UserError, match=message):
            build(unlabelled_dataset, SDNET, **options).initialize()
    build(unlabelled_dataset, LABELLED, change_plans=batch_of_one).initialize()


def test_a_network_that_is_not_two_is_refused(unlabelled_dataset):
    trainer = build(unlabelled_dataset, LABELLED)

    class Own(type(trainer)):
        @staticmethod
        def build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
        ):
            arguments = (plans_manager, configuration_manager, num_input_channels, num_output_channels)
            return nnUNetTrainer.build_network_architecture(*arguments, enable_deep_supervision)

    trainer.__class__ = Own
    trainer.build_network_architecture = Own.build_network_architecture
    with pytest.raises(UserError, match="of Own must return a DualNetwork"):
        trainer.initialize()


def test_no_unlabelled_images_at_all(dataset, tmp_path, monkeypatch):
    message = r"put some into imagesUn of Dataset090_.* run nnunet-ext preprocess-unlabelled -d 90 -c 2d -p tinyPlans"
    with pytest.raises(UserError, match=message):
        build(dataset, SDNET, configuration="2d").on_train_start()
    raw_images(tmp_path / "own", monkeypatch, ("one",))
    with pytest.raises(UserError, match=r"_unlabelled: run nnunet-ext preprocess-unlabelled -d 90 -c 2d -p tinyPlans"):
        build(dataset, SDNET, configuration="2d").on_train_start()
    build(dataset, LABELLED).initialize()


def test_unlabelled_images_of_another_plan(unlabelled_dataset):
    def other_spacing(plans):
        plans["configurations"]["3d_fullres"]["spacing"] = [3, 3, 3]

    trainer = build(unlabelled_dataset, SDNET, change_plans=other_spacing)
    with pytest.raises(UserError, match="was made with other plans than those of this run: run nnunet-ext"):
        trainer.on_train_start()


def coarse_cascade(plans):
    """A first stage of half the resolution."""
    cascade(plans)
    spacing = [2 * s for s in plans["configurations"]["3d_fullres"]["spacing"]]
    plans["configurations"]["3d_lowres"] |= {"data_identifier": "coarse", "spacing": spacing}


@pytest.fixture
def cascaded(unlabelled_dataset, tmp_path, monkeypatch):
    """Both stages; the unlabelled images are preprocessed for them, and the stock validation does nothing."""
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    second = build(unlabelled_dataset, SDNET, configuration="3d_cascade_fullres", change_plans=coarse_cascade)
    first = build(unlabelled_dataset, SDNET, configuration="3d_lowres", change_plans=coarse_cascade)
    own = tmp_path / "own"
    identifier = second.configuration_manager.data_identifier
    for folder in (identifier, f"{identifier}_unlabelled"):
        shutil.copytree(unlabelled_dataset.preprocessed / folder, own / folder)
    shutil.copy(unlabelled_dataset.preprocessed / f"{identifier}_unlabelled.json", own)
    shutil.copytree(own / identifier, own / "coarse")  # the labelled cases, which nothing here reads
    images = {case: [unlabelled_dataset.raw / "imagesUn" / f"{case}_0000.nii.gz"] for case in ("one", "two", "three")}
    manager = (first.plans_manager, first.configuration_manager, first.dataset_json)
    preprocess_images(images, *manager, own, 1, lambda done, total: None)
    for trainer in (first, second):
        trainer.preprocessed_dataset_folder_base = str(own)
        trainer.preprocessed_dataset_folder = str(own / trainer.configuration_manager.data_identifier)
    initialize_apart(first)
    return first, second


def test_the_first_stage_of_a_cascade_predicts_unlabelled_images(cascaded, capsys):
    first, second = cascaded
    with pytest.raises(UserError, match=r"no prediction of the unlabelled one.* \(3 of 3 .* train 3d_lowres with"):
        second.on_train_start()
    first.inference_allowed_mirroring_axes = (0, 1, 2)
    first.perform_actual_validation()
    assert "WARNING" not in capsys.readouterr().out

    assert first.networks()[0].decoder.deep_supervision  # as before
    first.set_deep_supervision_enabled(False)
    configuration = first.configuration_manager
    spacing = configuration.spacing
    for case in second.unlabelled_dataset().identifiers:
        fine, _, previous, _ = second.unlabelled_dataset().load_case(case)
        coarse = first.unlabelled_dataset().load_case(case)[0]
        assert coarse.shape[1] < fine.shape[1]
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
        logits = []
        for network in first.networks():
            settings = (first.plans_manager, configuration, None, first.dataset_json, "", (0, 1, 2))
            predictor.manual_initialization(network, *settings)
            logits.append(predictor.predict_sliding_window_return_logits(torch.from_numpy(coarse[:])).float())
        mean = (logits[0] + logits[1]) / 2
        expected = np.asarray(configuration.resampling_fn_probabilities(mean, fine.shape[1:], spacing, spacing)).argmax(
            0
        )
        assert len(np.unique(expected)) > 1
        assert (previous[:] == expected).mean() > 0.999  # logits of a sliding window are sums in float16

    second.initialize()
    second._augmentation = second.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    batch = next(second._start_unlabelled_loader())
    assert batch["data"].shape[1] == 1 + len(second.label_manager.foreground_labels)

    folder = Path(second.folder_with_segs_from_previous_stage)
    for damage in (lambda file: file.write_bytes(file.read_bytes()[:20]), Path.unlink):
        damage(folder / "two.b2nd")
        with pytest.raises(UserError, match=r"no prediction of the unlabelled two, or none of its shape \(1 of 3 "):
            second.unlabelled_dataset()
    shutil.copy(second.preprocessed_dataset_folder + "_unlabelled/two.b2nd", folder)
    with pytest.raises(UserError, match=r"no prediction of the unlabelled two, or none of its shape \(1 of 3 "):
        second.unlabelled_dataset()


def test_each_device_predicts_its_share_of_the_unlabelled_images(cascaded, monkeypatch):
    first, _ = cascaded
    monkeypatch.setattr(next_stage, "_CASES_BETWEEN_WAITS", 1)
    asked, logged, waits = [], [], []

    def predict(image):
        asked.append(image.shape)
        return torch.zeros(first.label_manager.num_segmentation_heads, *image.shape[1:])

    for rank, expected in enumerate((["one", "two"], ["one", "three", "two"])):  # then what both have made
        output = Path(first.output_folder_base) / "shared"
        next_stage.predict_for_next_stage(
            predict,
            first.unlabelled_dataset(),
            first.plans_manager,
            ("3d_lowres", "3d_cascade_fullres"),
            first.dataset_json,
            Path(first.preprocessed_dataset_folder_base),
            output,
            logged.append,
            next_stage.Share(rank, 2, lambda rank=rank: waits.append(rank)),
        )
        assert sorted(file.name for file in output.iterdir()) == [f"{case}.b2nd" for case in expected]
    assert len(asked) == 3
    assert logged == [f"predicting the unlabelled {case}" for case in ("one", "two", "three")]
    assert waits.count(0) == waits.count(1) > 0


def test_what_keeps_the_first_stage_from_predicting_unlabelled_images(cascaded, unlabelled_dataset, capsys):
    first, second = cascaded
    output = Path(first.output_folder_base) / "predicted_next_stage"
    for file in case_files(Path(second.preprocessed_dataset_folder + "_unlabelled"), "two"):
        file.unlink()
    first.perform_actual_validation()
    assert "1 of 3 unlabelled images are not preprocessed for 3d_cascade_fullres" in capsys.readouterr().out
    assert sorted(file.stem for file in output.rglob("*.b2nd")) == ["one", "three"]
    first.preprocessed_dataset_folder_base = "nowhere"
    first.perform_actual_validation()
    assert "no unlabelled images are predicted for the next stage. There are no" in capsys.readouterr().out
    shutil.rmtree(output)
    labelled, _ = ready(unlabelled_dataset, LABELLED, configuration="3d_lowres", change_plans=cascade)
    labelled.perform_actual_validation()
    assert not list(Path(labelled.output_folder_base).glob("predicted_next_stage"))


def forbidden(process):
    raise AssertionError(f"{process} starts in mid-run")


def test_unlabelled_samples_join_while_workers_load_labelled_ones(unlabelled_dataset, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_n_proc_DA", "2")
    trainer = build(unlabelled_dataset, SDNET, configuration="2d", unlabelled_start=0.5)
    trainer.on_train_start()
    assert "3 unlabelled images join in epoch 2" in capsys.readouterr().out
    alone = trainer.dataloader_train
    trainer.current_epoch = 1
    trainer.on_train_epoch_start()
    assert trainer.dataloader_train is alone
    batch = next(alone)
    assert len(batch["data"]) == trainer.batch_size
    workers = list(alone._processes)
    assert len(workers) == 2
    monkeypatch.setattr(multiprocessing.Process, "start", forbidden)  # the threads of a device run now: no fork
    trainer.current_epoch = 2
    trainer.on_train_epoch_start()
    assert trainer.dataloader_train.labelled is alone
    assert all(worker.is_alive() for worker in workers)
    for _ in range(12):  # more than were drawn before
        batch = next(trainer.dataloader_train)
        assert (len(batch["data"]), len(batch["unlabelled"])) == (trainer.batch_size // 2,) * 2
    trainer.dataloader_train.finish()
    trainer.dataloader_val._finish()


def raw_images(folder, monkeypatch, cases):
    """Let nnUNet_raw be a folder with these unlabelled images."""
    images = folder / "Dataset090_PhantomAbdomen" / "imagesUn"
    images.mkdir(parents=True)
    for case in cases:
        (images / f"{case}_0000.nii.gz").touch()
    (images / "._one_0000.nii.gz").touch()
    monkeypatch.setattr("nnunetv2.paths.nnUNet_raw", str(folder))


def test_images_that_came_later_are_named_in_the_log(unlabelled_dataset, tmp_path, monkeypatch, capsys):
    trainer = build(unlabelled_dataset, SDNET)
    raw_images(tmp_path, monkeypatch, ("one", "two", "three", "four"))
    trainer.on_train_start()
    log = capsys.readouterr().out
    assert "1 image(s) of imagesUn, four for one, are not preprocessed and not used" in log
    assert "to have them, run nnunet-ext preprocess-unlabelled -d 90 -c 3d_fullres -p tinyPlans, and this" in log


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "labelled",
            r"two is a labelled case of Dataset090_.* take it out of imagesUn and run nnunet-ext",
        ),
        ("unfinished", r"lacks four \(1 of 4 images are not preprocessed yet\): run nnunet-ext preprocess-unlabelled"),
        ("lost", r"has lost files of one: run nnunet-ext preprocess-unlabelled"),
        ("killed before the first", r"lacks one \(3 of 3 images are not preprocessed yet\): run nnunet-ext"),
        ("gone", r"two is no longer in imagesUn of Dataset090_.* \(1 such case\(s\)\): run nnunet-ext"),
    ],
)
def test_a_store_that_is_not_up_to_date(unlabelled_dataset, tmp_path, monkeypatch, what, message):
    trainer = build(unlabelled_dataset, SDNET)
    own = tmp_path / "own"
    identifier = trainer.configuration_manager.data_identifier
    for folder in (identifier, f"{identifier}_unlabelled"):
        shutil.copytree(unlabelled_dataset.preprocessed / folder, own / folder)
    trainer.preprocessed_dataset_folder_base = str(own)
    trainer.preprocessed_dataset_folder = str(own / identifier)
    folder = store_folder(own, identifier)
    record = StoreRecord.read(unlabelled_dataset.preprocessed / folder.name)
    record.path = own / f"{folder.name}.json"
    record.wanted += ["four"] if what == "unfinished" else []
    if what == "killed before the first":
        record.cases = {}
    record.write()
    if what == "labelled":
        for file in case_files(folder, "two"):
            shutil.copy(file, own / identifier / file.name)
    if what == "gone":
        raw_images(tmp_path, monkeypatch, ("one", "three"))
    if what == "lost":
        (folder / "one.b2nd").unlink()
    with pytest.raises(UserError, match=message) as error:
        trainer.unlabelled_dataset()
    assert str(error.value).endswith(".")
