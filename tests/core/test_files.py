"""Files are the old ones or the whole new ones, whatever happens in between."""

import os

import pytest

from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, replaced_when_complete, write_text, write_together


@pytest.mark.parametrize("by_process", [True, False])
@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced_only_when_complete(tmp_path, durable, by_process):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replaced_when_complete(path, durable, by_process) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        raise KeyError
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]
    with replaced_when_complete(path, durable, by_process) as temporary:
        temporary.write_text("new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "new")]


def test_text_is_utf_8(tmp_path):
    write_text(tmp_path / "file", "±ß")
    assert (tmp_path / "file").read_bytes() == "±ß".encode()


def test_of_results_that_belong_together_none_is_replaced_before_all_are_written(tmp_path, monkeypatch):
    write_together(tmp_path / "new", {"a": "1\n", "b": "2\n"})
    synced = []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write to .*new: No space left on device; make room"):
        write_together(tmp_path / "new", {"a": "3\n", "b": "4\n"})
    assert {file.name: file.read_text() for file in (tmp_path / "new").iterdir()} == {"a": "1\n", "b": "2\n"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot make the output folder .*inner: .*; choose another with -o"):
        make_folder(tmp_path / "file" / "inner")
