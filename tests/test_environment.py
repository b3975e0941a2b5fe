"""What doctor finds, and what to do about it."""

import sys
from importlib import metadata

import pytest

from nnunet_ext import environment
from nnunet_ext.errors import UserError


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


def test_a_missing_nnunet_is_a_finding_and_no_traceback(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "nnunetv2.utilities.find_objects", None)
    findings = {finding.subject: finding for finding in environment.examine()}
    assert "nnunetv2 is not installed" in findings["nnunetv2"].message
    assert not findings["torch"].is_fine
    assert not findings["trainers"].is_fine


def test_unset_folders(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setenv("nnUNet_results", "/no/such/folder")
    with pytest.raises(UserError, match="nnUNet_raw is not set: export nnUNet_raw="):
        environment.require_folder("nnUNet_raw")
    findings = {finding.subject: finding for finding in environment.examine()}
    assert "is not set" in findings["nnUNet_raw"].message  # all that is wrong, in one run
    assert "is not a folder" in findings["nnUNet_results"].message


def test_unfinished_conversions_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    (tmp_path / "Dataset504_CHAOS_CT").mkdir()
    assert environment.describe_unfinished_conversions(tmp_path) == "none unfinished"
    (tmp_path / ".Dataset503_LiTS.partial").mkdir()
    finding = next(f for f in environment.examine() if f.subject == "conversions")
    assert finding.is_fine  # it may be running
    assert ".Dataset503_LiTS.partial" in finding.message
    assert "goes on from there, or delete" in finding.message
