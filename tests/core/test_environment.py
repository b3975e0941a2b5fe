"""The version of nnU-Net and its folders."""

from importlib import metadata

import pytest

from nnunet_ext.core import environment
from nnunet_ext.core.errors import UserError


@pytest.mark.parametrize(
    ("version", "word"), [("2.7.0", "too old"), ("2.6.4", "too old"), ("1.7.1", "too old"), ("2.9.0", "too new")]
)
def test_other_versions_of_nnunet_are_named(monkeypatch, version, word):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    with pytest.raises(UserError, match=f"nnunetv2 {version} is {word} .* pip install 'nnunetv2>=2.8,<2.9'"):
        environment.require_nnunet()


@pytest.mark.parametrize("version", ["2.8.0", "2.8.1", "2.8rc1", "2.8.2.dev3"])
def test_supported_versions(monkeypatch, version):
    monkeypatch.setattr(metadata, "version", lambda name: version)
    assert environment.require_nnunet() == version


def test_an_unset_folder(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    with pytest.raises(UserError, match="nnUNet_raw is not set: export nnUNet_raw="):
        environment.require_folder("nnUNet_raw")


@pytest.mark.parametrize("way", ['"{}"', "'{}'", " {}", '{}"', "~/{}"])
def test_folder_with_what_a_shell_would_have_removed(tmp_path, monkeypatch, way):
    monkeypatch.setenv("nnUNet_results", way.format(tmp_path))
    with pytest.raises(UserError, match=r"nnUNet_results is set to .*, which no shell has taken away: set it to /"):
        environment.require_folder("nnUNet_results")


def test_folder_with_a_blank_or_a_tilde_inside(tmp_path, monkeypatch):
    folder = tmp_path / "a b~'c'd"
    folder.mkdir()
    monkeypatch.setenv("nnUNet_results", str(folder))
    assert environment.require_folder("nnUNet_results") == folder
