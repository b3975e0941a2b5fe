"""What doctor finds, and what to do about it."""

import os
import sys
from importlib import metadata

import pytest

from nnunet_ext.cli import doctor
from nnunet_ext.plugin.startup import plugin_folder


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


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("x = undefined_name\n", "NameError: name 'undefined_name'"),
        ("assert False, 'needs ten GPUs'\n", "AssertionError: needs ten GPUs"),
        ("import no_such_module_anywhere\n", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("import sys\nprint('hello')\nsys.exit('bye')\n", "SystemExit: bye"),
        ("raise Exception\n", "Exception: Exception"),
    ],
)
@pytest.mark.parametrize("place", ["mine.py", "pack/mine.py"])
def test_modules_of_the_user_that_do_not_import_are_named(monkeypatch, tmp_path, capsys, text, error, place):
    pytest.importorskip("nnunetv2")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "pack").mkdir(exist_ok=True)
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "sound.py").write_text("x = 1\n")
    (tmp_path / place).write_text(text)
    monkeypatch.setenv("nnUNet_extTrainer", f"{tmp_path}{os.pathsep}{plugin_folder()}")
    finding = next(f for f in doctor.examine() if f.subject == "trainers")
    assert not finding.is_fine and "\n" not in finding.message
    assert f"{tmp_path / place} ({error}" in finding.message and "sound" not in finding.message
    assert capsys.readouterr().out == ""
