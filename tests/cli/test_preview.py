"""``nnunet-ext preview`` as a user types it."""

import pytest
from typer.testing import CliRunner

from nnunet_ext.cli.app import app
from nnunet_ext.core.errors import UserError
from tests.evaluation.folders import dataset

NAME = "Dataset007_Pancreas"


@pytest.fixture
def raw(tmp_path, monkeypatch):
    dataset(tmp_path / "nnUNet_raw" / NAME, n=2)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "nnUNet_raw"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "nnUNet_raw" / NAME


def preview(*arguments):
    return CliRunner().invoke(app, ["preview", *map(str, arguments)])


def test_a_page_of_a_dataset(raw, tmp_path):
    done = preview("-d", 7, "-np", 1)
    assert done.exit_code == 0, done.output
    assert "case_1" in (tmp_path / f"preview_{NAME}.html").read_text(encoding="utf-8")
    assert f"2 cases of {NAME}" in done.output
    assert preview("-d", NAME, "-np", 1, "-n", 1, "-o", tmp_path / "new" / "page.html").exit_code == 0
    assert "case_1</b>" not in (tmp_path / "new" / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("arguments", "said"), [(("-d", 8), "no dataset 8"), (("-d", 7, "-o", "."), "is a folder")])
def test_wrong_input_is_one_sentence(raw, arguments, said):
    done = preview(*arguments)
    assert done.exit_code == 1
    assert isinstance(done.exception, UserError) and said in str(done.exception)


def test_cases_that_cannot_be_shown_are_named_after_the_page_is_written(raw, tmp_path):
    (raw / "labelsTr" / "case_0.nii.gz").write_bytes(b"")
    done = preview("-d", 7, "-np", 1)
    assert done.exit_code == 1
    assert "1 of 2 cases cannot be shown" in str(done.exception) and "case_0.nii.gz" in str(done.exception)
    assert "case_1</b>" in (tmp_path / f"preview_{NAME}.html").read_text(encoding="utf-8")
