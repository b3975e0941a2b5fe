"""One training step against a plain reading of Eq. 3 to 9, the two stages, resuming, and input that cannot work."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.losses.prior import DualVariables
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.training.options import changed
from nnunet_ext.training.teacher import Teacher
from tests.training.building import REGIONS, assert_loads_into_stock, build, cascade, random_batch, residual, run_epochs

PANN, PARTIAL = "nnUNetTrainerPaNN_18epochs_2iters", "nnUNetTrainerPartial_18epochs_2iters"
LABELS = {"background": 0, "liver": 1, "spleen": 2}
SETTINGS = {
    "3d": {},
    "2d": {"configuration": "2d"},
    "ignore label": {"labels": {**LABELS, "ignore": 3}},
    "regions": {"labels": REGIONS},
    "regions with ignore label": {"labels": {**REGIONS, "ignore": 3}},
    "no deep supervision": {"enable_deep_supervision": False},
    "cross-entropy": {"region_loss": "cross_entropy"},
    "cross-entropy, no deep supervision": {"region_loss": "cross_entropy", "enable_deep_supervision": False},
    "weights": {"partial_weight": 0.3, "prior_weight": 0.7, "partial_share": 0.4, "dual_rate": 5.0},
    "plain duals": {"dual_step": "plain"},
}


def annotate(trainer):
    """Half of the training cases of fold 0 partially: one by its last label, one by nothing."""
    training, validation = nnUNetTrainer.do_split(trainer)
    names = [name for name in trainer.dataset_json["labels"] if name not in ("background", "ignore")]
    entries = dict.fromkeys([*training, *validation], names)
    entries[training[1]], entries[training[2]] = names[-1:], []
    trainer.dataset_json["annotated_labels"] = entries
    return training, validation


def made(dataset, name=PANN, **options):
    trainer = build(dataset, name, **options)
    annotate(trainer)
    return trainer


def ready(dataset, name=PANN, epoch=12, **options):
    """In stage 2, with a teacher of other weights and duals that are no longer where they began."""
    trainer = made(dataset, name, **options)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    trainer.current_epoch = epoch
    other = copy.deepcopy(trainer.network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    trainer._teacher = Teacher(other)
    if trainer.options.prior_weight:
        prior = torch.tensor([0.7, 0.25, 0.05][-len(trainer.class_names()) :])
        trainer._duals = DualVariables(prior, trainer.options.dual_step)
        trainer._duals.ascend(1.2 * prior, 0.3)
    return trainer


def mixed_batch(trainer):
    """A partial sample, of which only the last label is annotated, then a full one."""
    batch = random_batch(trainer)
    cases = list(trainer.annotated)
    partial = next(case for case in cases if len(trainer.annotated[case]) == 1)
    full = next(case for case in cases if not trainer.is_partial(case))
    regions = trainer.label_manager.has_regions
    for target in batch["target"] if isinstance(batch["target"], list) else [batch["target"]]:
        if regions:
            target[0, 0] = 0
        else:
            target[0][target[0] == 1] = 0  # the background of a partial case
    return {**batch, "keys": [partial, full]}


def plain_completion(trainer, data, target):
    """Pseudo-labels voxel by voxel: not the last label, and nowhere over a label that was given."""
    with torch.no_grad():
        logits = trainer._teacher.module(data[:1])
    logits = (logits[0] if isinstance(logits, list) else logits)[0]
    completed = target[:1].clone()
    factor = [a // b for a, b in zip(logits.shape[1:], target.shape[2:], strict=True)]
    for voxel in np.ndindex(*target.shape[2:]):
        fine = tuple(v * f + f // 2 for v, f in zip(voxel, factor, strict=True))
        scores = [float(logits[(c, *fine)]) for c in range(logits.shape[0])]
        if trainer.label_manager.has_regions:
            if scores[0] > 0:
                completed[(0, 0, *voxel)] = 1
        elif completed[(0, 0, *voxel)] == 0:
            completed[(0, 0, *voxel)] = int(scores[1] > scores[0])
    return completed


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_step_is_equation_3(dataset, setting):
    trainer = ready(dataset, **SETTINGS[setting])
    batch = mixed_batch(trainer)
    manager, deep = trainer.label_manager, trainer.enable_deep_supervision
    network, duals = copy.deepcopy(trainer.network), copy.deepcopy(trainer._duals)
    targets = batch["target"] if deep else [batch["target"]]
    completed = [plain_completion(trainer, batch["data"], target) for target in targets]
    outputs = network(batch["data"])
    outputs = list(outputs) if deep else [outputs]

    def supervised(row, truth):
        predicted = [o[row : row + 1] for o in outputs]
        return trainer.loss(predicted, truth) if deep else trainer.loss(predicted[0], truth[0])

    full, partial = supervised(1, [t[1:] for t in targets]), supervised(0, completed)
    logits = outputs[0][:1]
    probabilities = torch.sigmoid(logits) if manager.has_regions else torch.softmax(logits, 1)
    known = torch.ones_like(targets[0][:1, :1], dtype=torch.bool)
    if manager.has_ignore_label:
        known = targets[0][:1, -1:] == 0 if manager.has_regions else targets[0][:1] != 3
    p = torch.stack([c[known[0, 0]].mean() for c in probabilities[0]])
    q = duals.prior
    rate = trainer.options.dual_rate * 0.01
    if trainer.options.dual_step == "plain":
        nu = duals.nu + rate * q * (p.detach() + 1 / duals.nu)
        mu = duals.mu + rate * (1 - q) * (1 - p.detach() + 1 / duals.mu)
    else:
        nu = -1 / ((1 - rate) * (-1 / duals.nu) + rate * p.detach())
        mu = -1 / ((1 - rate) * (-1 / duals.mu) + rate * (1 - p.detach()))
    entropy = (q * torch.log(q) + (1 - q) * torch.log(1 - q)).sum()
    prior = (q * (p * nu + 1 + torch.log(-nu)) + (1 - q) * ((1 - p) * mu + 1 + torch.log(-mu))).sum() + entropy
    total = 0.5 * full + trainer.options.partial_weight * 0.5 * partial
    total = total + trainer.options.prior_weight * 0.5 / trainer.options.partial_share * prior
    total.backward()

    output = trainer.train_step(batch)

    changed = (completed[0] != targets[0][:1]).any(1).float().mean()
    assert changed > 0.02
    expected = {"loss": total, "J_L": full, "J_P": partial, "J_C": prior, "pseudo-labels": changed}
    for i, name in enumerate(trainer.class_names()):
        if name != "background":
            expected |= {f"{name}: predicted": p[i], f"{name}: prior": q[i]}
    assert output.keys() == expected.keys()
    assert set(trainer.curve_titles) < set(expected)
    for name, value in expected.items():
        assert output[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    assert torch.allclose(trainer._duals.nu, nu, rtol=1e-5)
    assert torch.allclose(trainer._duals.mu, mu, rtol=1e-5)
    gradients = {n: g.grad for n, g in network.named_parameters() if g.grad is not None}
    norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
    for name, parameter in trainer.network.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name] * min(1, 12 / norm), rtol=1e-3, atol=1e-6), name


def test_a_batch_without_partial_samples_and_one_of_nothing_else(dataset):
    trainer = ready(dataset)
    batch = mixed_batch(trainer)
    before = trainer._duals.nu.clone()
    output = trainer.train_step({**batch, "keys": batch["keys"][1:] * 2})
    assert output["loss"] == output["J_L"]
    assert np.isnan([output["J_P"], output["J_C"], output["pseudo-labels"], output["spleen: predicted"]]).all()
    assert torch.equal(trainer._duals.nu, before)
    output = trainer.train_step({**batch, "keys": batch["keys"][:1] * 2})
    assert np.isnan(output["J_L"])
    assert output["loss"] == pytest.approx(output["J_P"] + 0.1 * 4 * output["J_C"], rel=1e-5)
    assert not torch.equal(trainer._duals.nu, before)


def test_all_devices_share_the_duals_and_none_waits_for_another(dataset, monkeypatch):
    trainer = ready(dataset)
    trainer.is_ddp = True
    assert (
        trainer._build_loss().loss.dc.ddp is False
    )  # else batch Dice gathers as often as a device has partial samples
    elsewhere = torch.tensor([0.5, 0.3, 0.2])
    monkeypatch.setattr(
        "nnunet_ext.trainers.pann.dist.all_reduce",
        lambda sums: sums.add_(torch.cat([3 * elsewhere, torch.tensor([3.0])])),
    )
    for samples, here in ((1, torch.tensor([0.9, 0.06, 0.04])), (0, torch.zeros(3))):
        duals, expected = copy.deepcopy(trainer._duals), copy.deepcopy(trainer._duals)
        trainer._ascend(duals, here, samples)
        expected.ascend((samples * here + 3 * elsewhere) / (samples + 3), 0.02)
        assert torch.allclose(duals.nu, expected.nu)


def test_stage_1_is_stock_nnunet(dataset):
    trainer, stock = made(dataset), build(dataset, "nnUNetTrainer")
    for each in (trainer, stock):
        each.initialize()
        each.set_deep_supervision_enabled(True)
    stock.network.load_state_dict(trainer.network.state_dict())
    batch = mixed_batch(trainer)
    output = trainer.train_step(copy.deepcopy(batch))
    assert set(output) == {"loss", "J_L"}
    assert output["loss"] == pytest.approx(stock.train_step(batch)["loss"], rel=1e-5)
    for mine, theirs in zip(trainer.network.parameters(), stock.network.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)


def test_partial_has_no_prior(dataset):
    trainer = ready(dataset, PARTIAL)
    trainer.on_train_epoch_start()
    output = trainer.train_step(mixed_batch(trainer))
    assert set(output) == {"loss", "J_L", "J_P", "pseudo-labels"}
    assert output["loss"] == pytest.approx((output["J_L"] + output["J_P"]) / 2, rel=1e-5)
    assert set(trainer.extension_state()) - set(build(dataset, "nnUNetTrainerMLL").extension_state()) == {"frozen_copy"}


@pytest.mark.parametrize(
    ("configuration", "epochs", "options", "start", "due"),
    [
        ("3d_fullres", 180, {}, 80, range(80, 180, 10)),
        ("2d", 70, {}, 40, (40, 50, 60)),
        ("3d_fullres", 1000, {"refresh_interval": 0.1}, 445, (445, 545, 645, 745, 845, 945)),
        ("2d", 5, {"first_stage": 0.5}, 3, (3, 4)),
        ("2d", 100, {"first_stage": 0.55, "refresh_interval": 1.0}, 55, (55,)),  # 0.55 * 100 is larger than 55
        ("2d", 4, {"first_stage": 0.0, "refresh_interval": 0.5}, 0, (0, 2)),
        ("2d", 4, {"first_stage": 1.0}, 4, ()),
    ],
)
def test_stages_and_refreshes_are_fractions_of_the_run(dataset, configuration, epochs, options, start, due):
    trainer = made(dataset, f"nnUNetTrainerPaNN_{epochs}epochs", configuration=configuration, **options)
    second, refreshed = [], []
    for epoch in range(epochs):
        trainer.current_epoch = epoch
        if trainer.in_second_stage:
            second.append(epoch)
            if trainer._refresh_is_due:
                refreshed.append(epoch)
    assert second == list(range(start, epochs))
    assert refreshed == list(due)


def test_the_copy_stays_frozen_until_it_is_due(dataset):
    trainer = made(dataset, PARTIAL)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    weights = []
    for epoch in range(7, 11):
        trainer.current_epoch = epoch
        trainer.on_train_epoch_start()
        trainer.train_step(mixed_batch(trainer))
        weights.append(None if trainer._teacher is None else next(trainer._teacher.module.parameters()).clone())
    assert weights[0] is None  # stage 2 begins with epoch 8 of 18
    assert not torch.equal(weights[1], weights[2])  # every epoch, in a run of 18
    trainer.options = changed(trainer.options, refresh_interval=0.5)
    trainer.current_epoch = 11
    trainer.on_train_epoch_start()
    assert torch.equal(next(trainer._teacher.module.parameters()), weights[3])
    assert not any(parameter.requires_grad for parameter in trainer._teacher.module.parameters())


@pytest.mark.parametrize(
    ("configuration", "name", "second", "factor", "options"),
    [
        ("3d_fullres", PANN, 8, 1 / 50, {}),  # section 4.1: 5e-4, then 1e-5
        ("2d", "nnUNetTrainerPaNN_14epochs", 8, 1 / 2, {}),  # 2e-5, then 1e-5
        ("3d_fullres", PANN, 8, 0.3, {"restart_factor": 0.3}),
    ],
)
def test_the_learning_rate_restarts_where_asked_for(dataset, configuration, name, second, factor, options):
    rates = []
    trainer = made(dataset, name, configuration=configuration, restart_learning_rate=True, **options)
    trainer.initialize()
    epochs = trainer.num_epochs
    for epoch in range(epochs):
        trainer.lr_scheduler.step(epoch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
    rest = epochs - second
    assert np.allclose(rates[:second], 0.01 * (1 - np.arange(second) / epochs) ** 0.9)
    assert np.allclose(rates[second:], factor * 0.01 * (1 - np.arange(rest) / rest) ** 0.9)
    assert not made(dataset).options.restart_learning_rate


def test_the_weights_are_the_paper_s():
    pann = find_trainer("nnUNetTrainerPaNN").options_class()
    assert (pann.partial_weight, pann.prior_weight) == (1, 0.1)  # lambda1 and lambda2 of Eq. 3, section 4.1
    assert pann.partial_share == 1 / 4  # section 4.1: full : partial = 3 : 1
    assert pann.dual_rate == 2e-5 / 1e-5  # section 4.1: ascent and descent
    assert find_trainer("nnUNetTrainerPartial").prior_weight == 0


@pytest.mark.parametrize("stop", [1, 3])
def test_a_resumed_run_equals_one_that_never_stopped(dataset, monkeypatch, stop):
    """Stopped in stage 1, and in stage 2 between two refreshes."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    name = "nnUNetTrainerPaNN_5epochs"
    options = {"first_stage": 0.4, "refresh_interval": 0.4, "prior_patches": 20, "save_every": 1}

    def seed(value=0):
        np.random.seed(value)  # noqa: NPY002
        torch.manual_seed(value)

    seed()
    straight = made(dataset, name, **options)
    run_epochs(straight, 5)
    seed()
    run_epochs(first := made(dataset, name, **options), stop)
    seed(99)
    second = made(dataset, name, **options)
    second.load_checkpoint(f"{first.output_folder}/checkpoint_latest.pth")
    assert second.current_epoch == stop
    run_epochs(second, 5)

    table, expected = second.loss_curves.table(), straight.loss_curves.table()
    assert list(table.columns) == list(expected.columns)
    np.testing.assert_allclose(table.to_numpy(), expected.to_numpy(), rtol=1e-4)
    assert table["J_P"].isna().tolist() == [True, True, False, False, False]
    state, reference = second.extension_state(), straight.extension_state()
    for part in ("duals", "frozen_copy"):
        for key, value in reference[part].items():
            assert torch.allclose(state[part][key], value, rtol=1e-4, atol=1e-6), (part, key)


def test_a_run_with_workers_mixes_from_stage_2_on(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    trainer = made(dataset, "nnUNetTrainerPaNN_3epochs_30iters", first_stage=0.34, prior_patches=20)
    trainer.logger.plot_progress_png = lambda folder: None
    seen = []
    step = trainer.train_step

    def watched(batch):
        seen.append([trainer.is_partial(case) for case in batch["keys"]])
        return step(batch)

    monkeypatch.setattr(trainer, "train_step", watched)
    trainer.run_training()
    table = trainer.loss_curves.table()
    assert list(table["J_P"].notna()) == [False, False, True]
    assert not np.any(seen[:60])
    assert 1 <= np.sum(seen[60:]) <= 30  # some batches were made before
    prior = trainer._duals.prior
    assert prior.sum().item() == pytest.approx(1, rel=1e-5)
    assert table["liver: prior"].iloc[-1] == pytest.approx(prior[1].item())


def test_the_prior_is_that_of_the_full_training_cases(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    trainer = made(dataset, prior_sampling="volumes")
    trainer.initialize()
    with pytest.raises(RuntimeError, match="get_dataloaders first"):
        trainer.estimate_prior()
    trainer.get_dataloaders()
    training, _ = trainer.do_split()
    full = [case for case in training if not trainer.is_partial(case)]
    assert len(full) == 2
    folder = trainer.preprocessed_dataset_folder
    cases = infer_dataset_class(folder)(folder, full)
    labels = np.concatenate([np.maximum(cases.load_case(case)[1][:], 0).ravel() for case in full])
    expected = [(labels == value).mean() for value in range(3)]
    assert trainer.estimate_prior().tolist() == pytest.approx(expected, rel=1e-5)
    trainer.options = changed(trainer.options, prior_sampling="patches")
    patches = trainer.estimate_prior()
    assert patches.sum().item() == pytest.approx(1, rel=1e-5)
    assert patches.tolist() != pytest.approx(expected, rel=1e-3)


def test_validation_is_on_full_cases_only(dataset):
    trainer = build(dataset, PANN)
    training, validation = annotate(trainer)
    trainer.fold = "all"
    kept_training, kept_validation = trainer.do_split()
    assert set(kept_training) == {*training, *validation}
    assert set(kept_validation) == {training[0], training[3], *validation}
    log = Path(trainer.log_file).read_text()
    assert "2 of 5 validation cases of fold all are partially labelled and are left out" in log


def test_the_network_is_that_of_stock_nnunet(dataset, tmp_path):
    trainer = ready(dataset)
    assert_loads_into_stock(dataset, trainer, str(tmp_path / "pann.pth"))


def test_a_checkpoint_of_stage_2_without_our_state_starts_anew(dataset, monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    again = made(dataset, prior_patches=5)
    again.initialize()
    again.load_extension_state({})
    again.current_epoch = 12
    again.get_dataloaders()
    assert again._loader.partial_share == 0.25
    again.on_train_epoch_start()
    again.set_deep_supervision_enabled(True)
    assert np.isfinite(again.train_step(mixed_batch(again))["J_C"])


def test_a_simulated_batch_is_mixed(dataset):
    trainer = ready(dataset, PARTIAL)
    for size, partial in ((2, 1), (8, 2)):
        keys = trainer.simulated_batch({"keys": [""] * size})["keys"]
        assert (keys.count("partial"), keys.count("full")) == (partial, size - partial)


def test_mixed_precision_keeps_the_terms_in_float32(dataset, monkeypatch):
    trainer = ready(dataset)
    batch = mixed_batch(trainer)
    monkeypatch.setattr(trainer, "autocast", lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    made, given = [], []
    trainer.network.register_forward_hook(lambda module, inputs, outputs: made.append(outputs[0].detach()))
    loss = trainer.loss
    monkeypatch.setattr(
        trainer, "loss", lambda outputs, target: (given.append(outputs[0].dtype), loss(outputs, target))[1]
    )
    output = trainer.train_step(batch)
    assert made[-1].dtype == torch.bfloat16
    assert given == [torch.float32, torch.float32]  # J_L and J_P: their gradients are summed in float32
    expected = torch.softmax(made[-1][:1].double(), 1).mean((0, 2, 3, 4))  # of the partial sample
    for name, mean in zip(trainer.class_names()[1:], expected[1:], strict=True):
        assert output[f"{name}: predicted"] == pytest.approx(mean.item(), rel=1e-5)  # in bfloat16 off by 1e-3
    assert trainer._duals.nu.dtype == torch.float32


def test_the_cascade_and_residual_plans(dataset):
    trainer = made(dataset, configuration="3d_cascade_fullres", change_plans=cascade)
    with pytest.raises(UserError, match="has no prediction of"):
        trainer.initialize()
    previous = Path(trainer.folder_with_segs_from_previous_stage)
    previous.mkdir(parents=True)
    for case in trainer.do_split()[0]:
        (previous / f"{case}.b2nd").touch()
    for options in ({"configuration": "3d_cascade_fullres", "change_plans": cascade}, {"change_plans": residual}):
        trainer = ready(dataset, **options)
        assert np.isfinite(trainer.train_step(mixed_batch(trainer))["loss"])


def test_what_cannot_work_is_refused_in_one_sentence(dataset):
    def batch_of_one(plans):
        plans["configurations"]["3d_fullres"]["batch_size"] = 1

    def changed(change):
        trainer = build(dataset, PANN)
        training, validation = annotate(trainer)
        change(trainer, trainer.dataset_json["annotated_labels"], training, validation)
        return trainer

    cases = {
        r"too few: raise batch_size of configuration 3d_fullres in .*tinyPlans.json": made(
            dataset, change_plans=batch_of_one
        ),
        r"dataset.json has no annotated_labels": build(dataset, PANN),
        r"has no entry for case": changed(lambda t, entries, tr, va: entries.pop(tr[3])),
        r"names kidney for case .*the labels are liver, spleen": changed(
            lambda t, entries, tr, va: entries.update({tr[0]: ["kidney"]})
        ),
        r"no fully labelled case to train on": changed(
            lambda t, entries, tr, va: entries.update(dict.fromkeys(tr, ()))
        ),
        r"no fully labelled case to validate on": changed(
            lambda t, entries, tr, va: entries.update({va[0]: ["liver"]})
        ),
        r"no partially labelled case": changed(
            lambda t, entries, tr, va: entries.update(dict.fromkeys(tr, ("liver", "spleen")))
        ),
    }
    for message, trainer in cases.items():
        with pytest.raises(UserError, match=message):
            trainer.initialize()
    with pytest.raises(UserError, match="prior_sampling must be one of patches, volumes, got 'cases'"):
        made(dataset, prior_sampling="cases").initialize()
