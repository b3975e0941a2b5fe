"""Checkpoints: the stock part as it is, written whole, checked before they are used."""

import pytest
import torch

from nnunet_ext.core.errors import UserError
from nnunet_ext.training.checkpoint import EXTENSION_KEY
from tests.training.building import build, trained_a_step

NAME = "nnUNetTrainerRefinedGAN_4epochs_2iters"


def test_stock_part_of_the_checkpoint_is_untouched(dataset, tmp_path):
    trainer = trained_a_step(dataset, NAME)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    checkpoint = torch.load(tmp_path / "c.pth", weights_only=False)
    assert checkpoint["trainer_name"] == NAME
    assert checkpoint["network_weights"].keys() == trainer.network.state_dict().keys()
    assert set(checkpoint[EXTENSION_KEY]["helpers"]) == {"discriminator_1", "discriminator_2"}


def test_a_failing_write_leaves_the_old_checkpoint(dataset, tmp_path, monkeypatch):
    trainer = trained_a_step(dataset, NAME)
    path = tmp_path / "checkpoint_latest.pth"
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()
    real_save = torch.save

    def disk_full(value, file, *args, **kwargs):
        real_save(value, file, *args, **kwargs)
        if hasattr(file, "name"):  # a file, not the buffer in memory
            file.truncate(1000)
            raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space"):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert list(tmp_path.glob("*.partial")) == []


def test_truncated_foreign_and_wrong_checkpoints_are_one_sentence(dataset, tmp_path):
    trainer = trained_a_step(dataset, NAME)
    good = tmp_path / "good.pth"
    trainer.save_checkpoint(str(good))

    truncated = tmp_path / "truncated.pth"
    truncated.write_bytes(good.read_bytes()[:-1000])
    empty = tmp_path / "empty.pth"
    empty.touch()
    zeros = tmp_path / "zeros.pth"  # typical after a power cut
    zeros.write_bytes(bytes(len(good.read_bytes())))
    for path in (truncated, empty, zeros):
        with pytest.raises(UserError, match=f"{path.name} cannot be read"):
            trainer.load_checkpoint(str(path))

    with pytest.raises(UserError, match="There is no checkpoint"):
        trainer.load_checkpoint(str(tmp_path / "checkpoint_best.pth"))

    other = build(dataset, "nnUNetTrainer")
    other.initialize()
    other.save_checkpoint(str(tmp_path / "stock.pth"))
    with pytest.raises(UserError, match=r"written by nnUNetTrainer and .* -pretrained_weights"):
        trainer.load_checkpoint(str(tmp_path / "stock.pth"))
    torch.save({"epoch": 3}, tmp_path / "foreign.pth")
    with pytest.raises(UserError, match="not an nnU-Net checkpoint"):
        trainer.load_checkpoint(str(tmp_path / "foreign.pth"))
    with pytest.raises(TypeError, match="checkpoint file"):
        trainer.load_checkpoint({})

    renamed = build(dataset, "nnUNetTrainerRefinedGAN_9epochs")
    renamed.load_checkpoint(str(good))  # the same trainer at another run length
    assert all(helper.was_restored for helper in renamed.auxiliary.values())


def test_what_a_killed_write_left_is_written_over(dataset, tmp_path):
    (tmp_path / "c.pth.partial").write_bytes(b"half")
    trained_a_step(dataset, NAME).save_checkpoint(str(tmp_path / "c.pth"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != "" and path.is_file()] == ["c.pth"]
