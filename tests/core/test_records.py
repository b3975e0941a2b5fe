"""Records of finished items hold as long as what they were made from."""

import os

import pytest

from nnunet_ext.core.records import file_state, fingerprint, keep, kept


def test_a_record_is_found_again_by_what_it_was_made_from(tmp_path):
    source, record = tmp_path / "image.nii", {"name": "case", "values": [1.5, None], "note": "é"}
    source.write_bytes(b"abc")
    made_from = fingerprint("1.0", file_state(source), {"mode": "copy"})
    path = tmp_path / "case.json"
    assert kept(path, made_from) is None
    keep(path, made_from, record)
    assert kept(path, made_from) == record
    assert sorted(file.name for file in tmp_path.iterdir()) == ["case.json", "image.nii"], "nothing is left beside it"


@pytest.mark.parametrize("change", ["size", "date", "setting"])
def test_what_changed_is_made_again(tmp_path, change):
    source, path = tmp_path / "image.nii", tmp_path / "case.json"
    source.write_bytes(b"abc")
    keep(path, fingerprint(file_state(source), "copy"), {})
    if change == "size":
        state = source.stat()
        source.write_bytes(b"abcd")
        os.utime(source, ns=(state.st_atime_ns, state.st_mtime_ns))
    if change == "date":
        os.utime(source, ns=(0, 1))
    assert kept(path, fingerprint(file_state(source), "link" if change == "setting" else "copy")) is None


@pytest.mark.parametrize("content", [b"", b'{"finger', b"[1]", b"{}", b"\xff"])
def test_what_is_no_record_is_none(tmp_path, content):
    path = tmp_path / "case.json"
    path.write_bytes(content)
    assert kept(path, fingerprint()) is None
