"""SD-Net: one training step against a plain reading of Eq. 3 to 8 and Algorithm 1; schedules; what cannot work."""

import copy

import numpy as np
import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.lookup import find_trainer
from nnunet_ext.trainers import sdnet
from nnunet_ext.training.curves import panels
from nnunet_ext.training.options import changed
from tests.trainers.sdnet_runs import LABELLED, SDNET, first_output, halves, ready
from tests.training.building import SETTINGS, build, random_batch, residual

pytestmark = pytest.mark.usefixtures("usual_sdnet_run")


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
    assert with_labels_alone or set(trainer.curve_titles) < set(panels(output))
    for name, value in expected.items():
        assert output[name] == pytest.approx(value.item(), rel=1e-4, abs=1e-6), name
    for network, reference in zip(trainer.networks(), copies, strict=True):
        gradients = {n: p.grad for n, p in reference.named_parameters() if p.grad is not None}
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
        for name, parameter in network.named_parameters():
            if name in gradients:
                scaled = gradients[name] * min(1, 12 / norm)
                assert torch.allclose(parameter.grad, scaled, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("setting", [*SETTINGS, "no deep supervision"])
def test_hard_pseudo_labels_are_learned_as_labels_are(unlabelled_dataset, setting):
    options = SETTINGS.get(setting, {"enable_deep_supervision": False})
    trainer, unlabelled = ready(unlabelled_dataset, **options, unlabelled_loss="stock")
    batch = halves(random_batch(trainer), unlabelled)
    networks = trainer.networks()
    with torch.no_grad():
        networks[0].decoder.seg_layers[-1].bias -= first_output(networks[0](unlabelled)).mean(
            (0, *range(2, unlabelled.ndim))
        )
        teacher, student = (n(unlabelled) for n in networks)
    hard = first_output(teacher)
    if trainer.label_manager.has_regions:
        hard = (torch.sigmoid(hard) > 0.5).float()
        if trainer.label_manager.has_ignore_label:
            hard = torch.cat([hard, torch.zeros_like(hard[:, :1])], 1)
    else:
        hard = torch.softmax(hard, 1).argmax(1, keepdim=True).float()
    assert len(hard.unique()) > 1
    targets = []
    for output in student if isinstance(student, list) else [student]:
        small = hard
        for axis, (n, m) in enumerate(zip(hard.shape[2:], output.shape[2:], strict=True), 2):
            small = small.index_select(axis, torch.tensor([int((i + 0.5) * n / m) for i in range(m)]))
        targets.append(small)
    made = trainer.pseudo_label(first_output(teacher), [target.shape[2:] for target in targets])
    # Compared here too: in these plans the loss of the coarsest output weighs nothing.
    assert all(torch.equal(m, t) for m, t in zip(made if isinstance(made, list) else [made], targets, strict=True))
    expected = trainer.loss(student, targets if isinstance(student, list) else targets[0])
    trainer._dice_losses = lambda *args: torch.tensor([0.2, 0.3])
    other, _ = ready(unlabelled_dataset, **options, unlabelled_weight=0.5)
    other.network.load_state_dict(trainer.network.state_dict())
    other._dice_losses = trainer._dice_losses
    output, squared = trainer.train_step(copy.deepcopy(batch)), other.train_step(copy.deepcopy(batch))
    assert output["unlabelled"] == pytest.approx(expected.item(), rel=1e-4)
    from_labels = squared["loss"] - squared["unlabelled"] / 4
    assert output["loss"] - expected.item() / 2 == pytest.approx(from_labels, rel=1e-4)
    for mine, reference in zip(networks[0].parameters(), other.networks()[0].parameters(), strict=True):
        assert torch.allclose(mine, reference, atol=1e-6)  # the teacher learns from labels alone


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


@pytest.mark.parametrize("setting", ["ignore label", "regions with ignore label"])
def test_validation_is_of_the_combination(unlabelled_dataset, setting):
    trainer, _ = ready(unlabelled_dataset, **SETTINGS[setting], inference="second")
    batch = random_batch(trainer)
    expected = copy.deepcopy(batch)
    stock = build(unlabelled_dataset, "nnUNetTrainer", **SETTINGS[setting])
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
    trainer.options = changed(trainer.options, inference="first")
    assert trainer.shares == (1, 0)


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


@pytest.mark.parametrize(("name", "unlabelled"), [(SDNET, 1), (LABELLED, 0)])
def test_a_simulated_batch_has_its_unlabelled_samples(unlabelled_dataset, name, unlabelled):
    trainer, _ = ready(unlabelled_dataset, name=name)
    made = trainer.simulated_batch(random_batch(trainer) | {"keys": ["a", "b"]})
    assert len(made.get("unlabelled", [])) == unlabelled
    targets = made["target"] if isinstance(made["target"], list) else [made["target"]]
    assert {len(made["data"]), len(made["keys"]), *map(len, targets)} == {2 - unlabelled}
