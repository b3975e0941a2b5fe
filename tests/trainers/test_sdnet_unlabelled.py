"""SD-Net: how unlabelled samples are drawn and join, and what is said of a store that does not fit."""

import multiprocessing
import shutil

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.store import StoreRecord, case_files, store_folder
from nnunet_ext.data.unlabelled_loader import UnlabelledDataLoader
from tests.trainers.sdnet_runs import LABELLED, SDNET, raw_images, seed
from tests.training.building import build

pytestmark = pytest.mark.usefixtures("usual_sdnet_run")


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


def test_a_run_that_nobody_seeded_draws_its_own_unlabelled_patches(unlabelled_dataset):
    states = []
    for value in (0, 0, 1):
        trainer = build(unlabelled_dataset, SDNET)  # seeds torch, as it is by default, always alike
        np.random.seed(value)  # noqa: NPY002 - as the operating system does
        trainer.on_train_start()
        states.append(trainer.dataloader_train.unlabelled.states["torch"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


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
