"""Folders and archives that users point at."""

import tarfile
import zipfile

import pytest

from dataset_conversion.source import children, files_below, folders_in, natural_key, opened
from nnunet_ext.core.errors import UserError


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data"
    for name in ("liver_10/a.nii", "liver_2/b.nii", "__MACOSX/c.nii", "._liver_2", "Thumbs.db", "readme.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def test_numbers_in_names_count_as_numbers():
    assert sorted(["a10", "a9", "a1b", "a"], key=natural_key) == ["a", "a1b", "a9", "a10"]


def test_junk_is_passed_over(folder):
    assert [path.name for path in children(folder)] == ["liver_2", "liver_10", "readme.txt"]
    assert [path.name for path in files_below(folder)] == ["b.nii", "a.nii", "readme.txt"]


def test_links_that_lead_up_are_not_followed_and_dangling_ones_are_given(folder):
    (folder / "liver_2" / "up").symlink_to(folder)
    (folder / "liver_2" / "z.nii").symlink_to(folder / "gone")
    assert [path.name for path in files_below(folder / "liver_2")] == ["b.nii", "z.nii"]
    assert folders_in(folder / "liver_2") == []


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_and_removed_at_the_end(folder, tmp_path, kind):
    archive = tmp_path / f"data.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.write(folder / "readme.txt", "inner/readme.txt")
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(folder / "readme.txt", "inner/readme.txt")
    scratch = tmp_path / "scratch"
    with opened(archive, scratch) as (place, temporary):
        assert temporary
        assert [path.read_text() for path in files_below(place) if path.name == "readme.txt"] == ["readme.txt"]
    assert not scratch.exists()


def test_what_cannot_be_unpacked_is_named(tmp_path):
    archive = tmp_path / "data.zip"
    archive.write_bytes(b"PK")
    with (
        pytest.raises(UserError, match=r"data\.zip cannot be unpacked .*download it again"),
        opened(archive, tmp_path / "s"),
    ):
        pass
    assert not (tmp_path / "s").exists()


def test_a_folder_is_given_as_it_is(folder, tmp_path):
    with opened(folder, tmp_path / "scratch") as (place, temporary):
        assert (place, temporary) == (folder, False)
    with pytest.raises(UserError, match="nowhere does not exist"), opened(tmp_path / "nowhere", tmp_path / "s"):
        pass
