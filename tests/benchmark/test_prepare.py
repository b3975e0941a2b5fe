"""A dataset that several benchmarks make ready."""

import json
import shutil
import threading
import time

from filelock import FileLock

from nnunet_ext.benchmark.jobs.prepare import prepare
from nnunet_ext.benchmark.workspace import Run
from tests.benchmark.running import space_of
from tests.conftest import PLANS, Dataset


def test_the_split_is_of_all_cases_though_another_configuration_has_few_yet(writable_dataset: Dataset, tmp_path):
    whole = writable_dataset.preprocessed / "nnUNetPlans_2d"
    half = writable_dataset.preprocessed / "a_configuration_that_is_being_made"
    half.mkdir()
    cases = sorted(file.stem for file in whole.glob("*.pkl"))
    for case in cases[:-1]:
        shutil.copy(whole / f"{case}.pkl", half)
    split = writable_dataset.preprocessed / "splits_final.json"
    split.unlink(missing_ok=True)
    space = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS])
    assert prepare(space, space.spec.datasets[0]) == 0
    for fold in json.loads(split.read_text()):
        assert sorted(fold["train"] + fold["val"]) == cases


def test_one_benchmark_waits_for_the_other(writable_dataset: Dataset, tmp_path, capsys):
    space = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS])
    dataset = space.spec.datasets[0]
    file = writable_dataset.preprocessed.parent / f".nnunet_ext_dataset_{dataset.id:03d}.lock"
    held, released = threading.Event(), threading.Event()

    def hold():
        with FileLock(file):
            held.set()
            time.sleep(1)
            released.set()

    other = threading.Thread(target=hold)
    other.start()
    assert held.wait(10)
    assert prepare(space, dataset) == 0
    other.join()
    assert released.is_set()
    assert f"Another benchmark prepares dataset {dataset.id}: waiting" in capsys.readouterr().out
    assert prepare(space, dataset) == 0
    assert "waiting" not in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_to_needs_no_lock(writable_dataset: Dataset, tmp_path, monkeypatch):
    space = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[PLANS])
    folder = writable_dataset.preprocessed.parent
    for lock in folder.glob(".*.lock"):  # of another test, copied
        lock.unlink()
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda path, mode: path != folder)
        assert prepare(space, space.spec.datasets[0]) == 0
        assert not list(folder.glob(".*.lock"))
    assert prepare(space, space.spec.datasets[0]) == 0
    assert list(folder.glob(".*.lock"))
