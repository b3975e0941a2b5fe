"""How many processes nnU-Net would start."""

from nnunet_ext.cli.unlabelled import default_processes


def test_processes_are_those_of_nnunet(monkeypatch):
    names = ("2d", "3d_fullres", "3d_lowres", "3d_other")
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    assert [default_processes(name) for name in names] == [8, 4, 8, 4]
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    assert [default_processes(name) for name in names] == [6, 4, 6, 4]
