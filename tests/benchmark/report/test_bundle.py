"""Bundles: the report comes out of them byte for byte, and what was changed is named."""

import hashlib
import json
import zipfile

import pytest

from nnunet_ext.benchmark.report import verify_bundle, write_bundle, write_report
from nnunet_ext.benchmark.report.bundle import MADE_WITH, SUMS
from nnunet_ext.core.errors import UserError
from tests.benchmark.report.synthetic import FAILED, MISSING, write_work

NAME = "Dataset091_X"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    without = {(NAME, "MLL", 0, 1): FAILED, (NAME, "stock", 1, 0): MISSING}
    write_work(folder, {"stock": 0, "MLL": 0.02}, seeds=2, cases=3, without=without, undefined={("case_001", "liver")})
    return folder


@pytest.fixture(scope="module")
def bundle(work, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "bundle.zip"
    write_bundle(work, path)
    return path


@pytest.fixture
def folder(bundle, tmp_path):
    """The bundle, unpacked, to be spoilt."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    return tmp_path / "unpacked"


def sum_again(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SUMS)
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / SUMS).write_text("".join(lines))


def test_the_report_comes_out_of_the_bundle(work, bundle, folder, tmp_path):
    write_report(work, tmp_path / "report")
    written = {p.relative_to(tmp_path / "report").as_posix() for p in (tmp_path / "report").rglob("*") if p.is_file()}
    assert verify_bundle(bundle) == len(written)
    assert verify_bundle(folder) == len(written)
    for name in written:
        assert (folder / "report" / name).read_bytes() == (tmp_path / "report" / name).read_bytes()
    assert {p.name for p in (folder / "data").iterdir()} >= {"cells.csv", "values.csv", "curves.csv", "benchmark.json"}


def test_two_bundles_are_the_same_bytes(work, bundle, tmp_path):
    write_bundle(work, tmp_path / "again" / "other.zip")
    assert (tmp_path / "again" / "other.zip").read_bytes() == bundle.read_bytes()


def test_a_changed_file_is_named_by_its_checksum(folder):
    path = folder / "data" / "values.csv"
    path.write_text(path.read_text().replace("0.8", "0.9", 1))
    with pytest.raises(UserError, match=r"data/values\.csv was changed after the bundle was made"):
        verify_bundle(folder)


def test_a_changed_number_with_new_checksums_is_named_by_file_and_line(folder):
    path = folder / "report" / "scores.csv"
    lines = path.read_text().splitlines(keepends=True)
    lines[2] = lines[2].replace("0.8", "0.9", 1)
    path.write_text("".join(lines))
    sum_again(folder)
    with pytest.raises(
        UserError, match=r"report/scores\.csv comes out otherwise, first in line 3 \('.*0\.9.*, now '.*0\.8"
    ):
        verify_bundle(folder)


def test_a_changed_value_changes_the_report(folder):
    path = folder / "data" / "values.csv"
    path.write_text(path.read_text().replace("0.8", "0.9", 1))
    sum_again(folder)
    with pytest.raises(UserError, match=r"report/differences\.csv comes out otherwise"):
        verify_bundle(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "report" / "tables.md").unlink(), r"lacks report/tables\.md, which SHA256SUMS names"),
        (lambda f: (f / "extra.txt").write_text("x"), r"holds extra\.txt, which SHA256SUMS does not name"),
        (lambda f: (f / SUMS).unlink(), "lacks SHA256SUMS"),
        (lambda f: (f / MADE_WITH).unlink(), "is no bundle of a benchmark"),
        (lambda f: (f / MADE_WITH).write_text('{"version": 2}'), "bundle version 2, this one reads 1"),
        (lambda f: ((f / "data" / "curves.csv").unlink(), sum_again(f)), r"the bundle lacks 'curves\.csv'"),
        (lambda f: ((f / "data" / "cells.csv").write_text("x\n"), sum_again(f)), "the bundle cannot be read"),
        (
            lambda f: ((f / "report" / "tables.md").unlink(), sum_again(f)),
            r"lacks report/tables\.md, which its data give",
        ),
        (
            lambda f: ((f / "report" / "x.md").write_text("x"), sum_again(f)),
            r"holds report/x\.md, which its data do not",
        ),
    ],
)
def test_what_is_not_a_whole_bundle_is_one_sentence(folder, spoil, words):
    spoil(folder)
    with pytest.raises(UserError, match=words):
        verify_bundle(folder)


def test_other_versions_are_named_where_the_report_comes_out_otherwise(folder):
    content = json.loads((folder / MADE_WITH).read_text())
    (folder / MADE_WITH).write_text(json.dumps(content | {"matplotlib": "3.9.0"}))
    sum_again(folder)
    verify_bundle(folder)  # another version is no fault as long as the bytes are the same
    (folder / "report" / "tables.md").write_text("x")
    sum_again(folder)
    with pytest.raises(UserError, match=r"versions differ: matplotlib 3\.9\.0 there and .* here"):
        verify_bundle(folder)


@pytest.mark.parametrize("content", [None, b"no zip"])
def test_no_bundle_at_all(tmp_path, content):
    path = tmp_path / "bundle.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read the bundle"):
        verify_bundle(path)


def test_a_work_folder_is_needed(tmp_path):
    with pytest.raises(UserError, match="holds no benchmark"):
        write_bundle(tmp_path, tmp_path / "bundle.zip")
