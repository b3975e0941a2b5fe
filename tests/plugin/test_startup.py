"""The start-up hook."""

import os

from nnunet_ext.plugin.startup import OPT_OUT_VARIABLE, VARIABLE, plugin_folder, register


def test_start_up_hook_appends_once_and_can_be_switched_off(monkeypatch):
    monkeypatch.delenv(OPT_OUT_VARIABLE, raising=False)
    monkeypatch.setenv(VARIABLE, "mine")
    register()
    register()
    assert os.environ[VARIABLE] == os.pathsep.join(["mine", plugin_folder()])
    monkeypatch.setenv(VARIABLE, "mine")
    monkeypatch.setenv(OPT_OUT_VARIABLE, "1")
    register()
    assert os.environ[VARIABLE] == "mine"


def test_the_folder_of_another_copy_is_dropped(monkeypatch, tmp_path):
    other = tmp_path / "nnunet_ext" / "plugin" / "search_path"
    monkeypatch.setenv(VARIABLE, os.pathsep.join(["/of/the/user", str(other)]))
    register()
    assert os.environ[VARIABLE].split(os.pathsep) == ["/of/the/user", plugin_folder()]
