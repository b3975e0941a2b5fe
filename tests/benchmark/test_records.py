"""Records of cells: what is written is read again, and a file that is not one is named."""

import json
from dataclasses import replace

import pytest

from nnunet_ext.benchmark.records import (
    Attempt,
    AttemptFailure,
    Cell,
    Failure,
    Fingerprint,
    Record,
    Usage,
    attempt_path,
    read_attempts,
    read_records,
)
from nnunet_ext.core.errors import UserError

CELL = Cell("Dataset091_X", "2d", "nnUNetPlans", "MLL", "nnUNetTrainerMLL_250epochs", 0, 3)
USAGE = Usage(2, 100.5, 180.0, 0.0, 90.0, 5, 18.0, None, None, 2**31, 123, 0.5)
PRINT = Fingerprint("a", "b", "c", "d", "e", "2.8.1", "0.1", "2.10", "3.12", "cpu", "f")
RECORD = Record(CELL, "finished", None, USAGE, PRINT, 250, 2, "2026-11-26T10:00:00+00:00", "2026-11-26T11:00:00+00:00")
FAILED = replace(RECORD, status="failed", failure=Failure("out of memory", "CUDA out of memory, µ", 2))


def changed(work, change):
    path = RECORD.write(work)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("record", [RECORD, FAILED], ids=lambda record: record.status)
def test_a_record_is_read_as_it_was_written(tmp_path, record):
    path = record.write(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == ("cells/Dataset091_X/2d/nnUNetPlans/MLL/fold_0/seed_3/record.json")
    assert Record.read(path) == record
    assert json.loads(path.read_text(encoding="utf-8"))["version"] == 1


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_a_record_of_another_version_is_one_sentence(tmp_path, version):
    path = changed(tmp_path, lambda content: content.update(version=version))
    with pytest.raises(UserError, match="written by another version") as caught:
        Record.read(path)
    assert str(path) in str(caught.value)
    assert f"record version {version}, this one reads 1" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("usage"), "no field usage"),
        (lambda c: c["cell"].pop("fold"), "no field fold"),
        (lambda c: c["cell"].update(fold="0"), r"wrong value of fold \('0'\)"),
        (lambda c: c["cell"].update(seed=True), r"wrong value of seed \(True\)"),
        (lambda c: c.update(status="running"), r"wrong value of status \('running'\)"),
        (lambda c: c["usage"].update(carbon=1), "an unknown field carbon"),
        (lambda c: c.update(fingerprint=None), "no fingerprint: None"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, change, words):
    path = changed(tmp_path, change)
    with pytest.raises(UserError, match=words) as caught:
        Record.read(path)
    assert str(path) in str(caught.value)


def test_a_file_cut_short_is_named(tmp_path):
    path = RECORD.write(tmp_path)
    path.write_text(path.read_text(encoding="utf-8")[:50], encoding="utf-8")
    with pytest.raises(UserError, match=r"cannot read .*record.json"):
        Record.read(path)


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path):
    RECORD.write(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(FAILED, usage=replace(USAGE, wall_seconds=float("nan"))).write(tmp_path)
    assert list(read_records(tmp_path)) == [RECORD]


def test_all_records_of_a_folder(tmp_path):
    others = [replace(RECORD, cell=replace(CELL, fold=fold, seed=0)) for fold in (0, 1)]
    for record in (*others, RECORD):
        record.write(tmp_path)
    assert list(read_records(tmp_path)) == [others[0], RECORD, others[1]]


def test_a_record_in_the_folder_of_another_cell_is_refused(tmp_path):
    path = RECORD.write(tmp_path)
    path.parent.rename(path.parents[1] / "seed_4")
    with pytest.raises(UserError, match=r"seed_4.record\.json is the record of another cell .*seed 3"):
        list(read_records(tmp_path))


def test_attempts_are_counted_as_numbers(tmp_path):
    failed = Attempt("2026-11-26T10:00:00+00:00", failure=AttemptFailure("lost node", "node 3 went away"), exit_code=1)
    passed = Attempt("2026-11-26T11:00:00+00:00", "2026-11-26T11:10:00+00:00", 600, first_epoch=0, last_epoch=4)
    failed.write(attempt_path(tmp_path, 2))
    passed.write(attempt_path(tmp_path, 10))
    assert read_attempts(tmp_path) == {2: failed, 10: passed}
    assert list(read_attempts(tmp_path)) == [2, 10]
    assert read_attempts(tmp_path / "nothing") == {}
