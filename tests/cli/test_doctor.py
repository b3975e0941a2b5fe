"""What doctor finds, and what to do about it."""

import sys
from importlib import metadata

from nnunet_ext.cli import doctor


def test_a_missing_nnunet_is_a_finding_and_no_traceback(monkeypatch):
    def version(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setitem(sys.modules, "nnunetv2.utilities.find_objects", None)
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert "nnunetv2 is not installed" in findings["nnunetv2"].message
    assert not findings["torch"].is_fine
    assert not findings["trainers"].is_fine


def test_unset_folders(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.setenv("nnUNet_results", "/no/such/folder")
    findings = {finding.subject: finding for finding in doctor.examine()}
    assert "is not set" in findings["nnUNet_raw"].message  # all that is wrong, in one run
    assert "is not a folder" in findings["nnUNet_results"].message


def test_unfinished_conversions_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    (tmp_path / "Dataset504_CHAOS_CT").mkdir()
    assert doctor.describe_unfinished_conversions(tmp_path) == "none unfinished"
    (tmp_path / ".Dataset503_LiTS.partial").mkdir()
    finding = next(f for f in doctor.examine() if f.subject == "conversions")
    assert finding.is_fine  # it may be running
    assert ".Dataset503_LiTS.partial" in finding.message
    assert "goes on from there, or delete" in finding.message
