"""The list of trainers, and what is known of one."""

import pytest

from nnunet_ext.cli.trainers import show, show_all
from nnunet_ext.core.errors import UserError
from nnunet_ext.plugin.registry import TRAINERS


def test_all_are_in_one_table_by_paper(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    show_all()
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines if line.strip()]
    for entry in TRAINERS.values():
        assert entry.name.removeprefix("nnUNetTrainer") in first
    assert first.index("Lian") < first.index("RefinedGAN") < first.index("Liu") < first.index("MLL")
    assert sum(line.strip().startswith("Liu et al. 2022") for line in lines) == 1
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["nnUNetTrainerMLL", "MLL", "nnUNetTrainerMLL_5epochs"])
def test_one_is_shown_whole(capsys, name):
    show(name)
    out = capsys.readouterr().out
    entry = TRAINERS["nnUNetTrainerMLL"]
    assert all(text.split()[0] in out for text in (entry.name, entry.cost, entry.gain, entry.paper))


def test_another_name_is_refused_with_a_guess():
    with pytest.raises(UserError, match="nnUNetTrainerSDNet"):
        show("nnUNetTrainerSDnet")
