"""Real trainings of the engine: one that is stopped and goes on gives what an undisturbed one gives."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from nnunet_ext.benchmark.jobs.child import Stop
from nnunet_ext.benchmark.jobs.ensemble import fuse
from nnunet_ext.benchmark.jobs.precision import segmentation_networks, use_bfloat16
from nnunet_ext.benchmark.jobs.training import initialize
from nnunet_ext.benchmark.matrix import cell_key, cells_of
from nnunet_ext.benchmark.records import CURVES, METRICS, RECORD, Record, read_attempts, read_records
from nnunet_ext.benchmark.workspace import TRAINED, Run
from nnunet_ext.networks.coarse_to_fine import SliceNetwork
from nnunet_ext.networks.dual import DualNetwork
from nnunet_ext.networks.multi_level import MultiLevelNetwork
from tests.benchmark.running import command, epochs_of, space_of, wait_for, write
from tests.conftest import PLANS, Dataset, slow
from tests.training.building import cascade

EPOCHS = 4


class Trained:
    """As much of a trainer as its precision asks for."""

    def __init__(self, network, patch_size, device="cpu"):
        self.network = network
        self.device = torch.device(device)
        self.configuration_manager = SimpleNamespace(patch_size=patch_size)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("pair", [False, True])
def test_networks_compute_in_bfloat16_and_give_float32(dimensions, pair):
    made = [small_unet(dimensions, 2) for _ in range(2)]
    network = DualNetwork(*made) if pair else made[0]
    names = list(network.state_dict())
    image = torch.randn(1, 1, *[16] * dimensions)
    plain = first_of(network(image))
    seen = []
    for module in network.modules():
        if type(module).__name__.startswith("Conv") and hasattr(module, "weight"):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer = Trained(network, [16] * dimensions)
    use_bfloat16(trainer)
    assert len(list(segmentation_networks(trainer))) == (2 if pair else 1)
    output = first_of(network(image))
    assert set(seen) == {torch.bfloat16} and output.dtype == torch.float32
    assert not torch.equal(output, plain)
    torch.testing.assert_close(output, plain, atol=0.1, rtol=0.1)
    assert list(network.state_dict()) == names
    copied = deepcopy(network)
    assert torch.equal(first_of(copied(image)), output)


def test_two_planes_are_convolved_in_float32():
    network = small_unet(3, 2).train()
    seen = {}
    for name, module in network.named_modules():
        if type(module) is nn.Conv3d:
            module.register_forward_hook(
                lambda module, inputs, output, name=name: seen.update({name: (inputs[0].shape[2], output.dtype)})
            )
    plain = deepcopy(network)
    image = torch.randn(2, 1, 4, 8, 8)
    use_bfloat16(Trained(network, [4, 8, 8]))
    network(image).square().mean().backward()
    depths = {planes for planes, _ in seen.values()}
    assert depths == {2, 4}
    assert all((dtype is torch.float32) == (planes == 2) for planes, dtype in seen.values())
    plain(image).square().mean().backward()
    mine, reference = (torch.cat([p.grad.flatten() for p in n.parameters()]) for n in (network, plain))
    assert torch.cosine_similarity(mine, reference, dim=0) > 0.95


@pytest.mark.parametrize("patch_size", [[16, 16], [3, 16, 16]])
def test_networks_of_slices_give_float32_maps(patch_size):
    network = SliceNetwork(MultiLevelNetwork([1, 1, 1], 2, (4, 4, 4, 4), 8, (1,)))
    use_bfloat16(Trained(network, patch_size))
    maps = network(torch.randn(2, 1, *patch_size), torch.rand(2, 1, *patch_size))
    assert {value.dtype for value in maps.values() if value.is_floating_point()} == {torch.float32}


def test_precision_on_a_gpu_is_nnunets():
    network = small_unet(2, 2)
    before = type(network)
    use_bfloat16(Trained(network, [16, 16], "cuda"))
    assert type(network) is before


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_trainings_have_the_precision_of_the_benchmark(tmp_path, precision):
    trainer = Trained(small_unet(2, 2), [16, 16])
    trainer.initialize = lambda: None
    initialize(space_of(tmp_path, "Dataset090_X", Run(), precision=precision), trainer)
    assert (type(trainer.network) is PlainConvUNet) == (precision == "auto")


def small_unet(dimensions, heads):
    conv, norm = ((nn.Conv2d, nn.InstanceNorm2d), (nn.Conv3d, nn.InstanceNorm3d))[dimensions - 2]
    stages = ((4, 8), 3, (1, 2), 2)
    return PlainConvUNet(
        1, 2, *stages[:1], conv, *stages[1:], heads, 2, norm_op=norm, nonlin=nn.LeakyReLU, deep_supervision=False
    ).eval()  # fmt: skip


def first_of(outputs):
    return outputs[0] if isinstance(outputs, (list, tuple)) else outputs


def job(space, step, key, *options):
    command = [sys.executable, "-m", "nnunet_ext.benchmark.jobs", step, key, "--work", str(space.root), *options]
    with (space.root / "jobs.log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)


def without_seconds(path):
    return [row[:-1] for row in csv.reader(path.open())]


@slow
def test_stopped_training_repeats_what_would_have_been(dataset: Dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA")  # as the resources say: with one core, none
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    case, files = next(iter(json.loads((dataset.raw / "dataset.json").read_text())["dataset"].items()))
    shutil.copy(dataset.raw / files["images"][0], tmp_path / "images" / f"{case}_0000.nii.gz")
    shutil.copy(dataset.raw / files["label"], tmp_path / "labels" / f"{case}.nii.gz")
    test_sets = {"other": {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}}
    spaces = {}
    for name in ("undisturbed", "stopped"):
        spaces[name] = space_of(
            tmp_path / name,
            dataset.name,
            Run(gpus=(), device="cpu"),
            plans=[PLANS],
            arms={"stock": "nnUNetTrainer"},
            epochs=EPOCHS,
            iterations=2,
            save_every=1000,
            metrics=["Dice", "HD95"],
            merged={"both": ["liver", "spleen"]},
            test_sets=test_sets if name == "stopped" else {},
        )
    (cell,) = cells_of(spaces["stopped"].spec)
    key = cell_key(cell)
    assert job(spaces["stopped"], "prepare", "90").wait(600) == 0  # writes the split, for both
    undisturbed = job(spaces["undisturbed"], "train", key)
    folder = cell.folder(spaces["stopped"].root)
    first = job(spaces["stopped"], "train", key)
    wait_for(lambda: epochs_of(spaces["stopped"].root, cell))
    first.send_signal(signal.SIGUSR1)
    assert first.wait(600) == 75
    (attempt,) = read_attempts(folder).values()
    assert attempt.failure.kind == "stopped" and attempt.exit_code == 75
    assert attempt.first_epoch == 0 and attempt.last_epoch < EPOCHS - 1
    assert not (folder / TRAINED).exists()
    assert job(spaces["stopped"], "train", key).wait(600) == 0
    assert undisturbed.wait(600) == 0
    assert epochs_of(spaces["stopped"].root, cell) == list(range(EPOCHS))
    refused = job(spaces["stopped"], "evaluate", key)
    assert refused.wait(600) == 1  # the test set is not predicted
    assert job(spaces["stopped"], "predict", key, "--test-set", "other").wait(600) == 0
    for space in spaces.values():
        assert job(space, "evaluate", key).wait(600) == 0

    other = cell.folder(spaces["undisturbed"].root)
    assert (folder / METRICS).read_bytes() == (other / METRICS).read_bytes()
    assert without_seconds(folder / CURVES) == without_seconds(other / CURVES)
    rows = list(csv.DictReader((folder / METRICS).open()))
    assert {row["label"] for row in rows} == {"liver", "spleen", "both"}
    assert {row["metric"] for row in rows} == {"Dice", "HD95"}
    tested = list(csv.DictReader((folder / "test_other.csv").open()))
    assert {row["case"] for row in tested} == {case}
    records = [Record.read(one / RECORD) for one in (folder, other)]
    assert records[0].fingerprint == records[1].fingerprint
    usage = records[0].usage
    assert (usage.attempts, usage.epochs, records[1].usage.attempts) == (
        3,
        EPOCHS,
        1,
    )  # one of them a refused evaluation
    assert usage.wall_seconds == sum(a.wall_seconds for a in read_attempts(folder).values())
    assert usage.parameters > 0 and usage.peak_rss_bytes > 1e8 and usage.peak_allocated_bytes is None
    assert (records[0].iterations_per_epoch, records[0].batch_size) == (2, 2)

    # A successor of a job whose end nobody saw, which Snakemake has deleted the output of, takes it over at once.
    before = json.loads((folder / TRAINED).read_text())
    (folder / TRAINED).unlink()
    assert job(spaces["stopped"], "train", key).wait(600) == 0
    assert json.loads((folder / TRAINED).read_text()) == before
    assert len(read_attempts(folder)) == 3


def test_what_a_child_leaves_behind_is_ended(tmp_path):
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    ended = Stop().run([sys.executable, "-c", code], tmp_path / "log", os.environ)
    assert ended.exit_code == 0 and ended.cpu_seconds > 0 and ended.peak_rss_bytes > 1e6
    orphan = int((tmp_path / "log").read_text())

    def is_gone() -> bool:
        try:
            return Path(f"/proc/{orphan}/stat").read_text().split()[2] == "Z"
        except OSError:
            return True

    wait_for(is_gone, 5)


def test_stop_with_workers_that_draw_batches(dataset: Dataset, tmp_path):
    """A scheduler asks the workers to end as well; that is no failure, and nothing waits for them."""
    space = space_of(
        tmp_path, dataset.name, Run(gpus=(), device="cpu"), plans=[PLANS], arms={"stock": "nnUNetTrainer"},
        epochs=200, iterations=2,
    )  # fmt: skip
    (cell,) = cells_of(space.spec)
    assert job(space, "prepare", "90").wait(600) == 0
    training = job(space, "train", cell_key(cell))
    wait_for(lambda: epochs_of(space.root, cell))
    (child,) = subprocess.run(
        ["pgrep", "-P", str(training.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    os.killpg(int(child), signal.SIGTERM)  # the training and its workers, not the job
    assert training.wait(600) == 75
    (attempt,) = read_attempts(cell.folder(space.root)).values()
    assert attempt.failure.kind == "stopped" and attempt.last_epoch < 199


@pytest.mark.parametrize("how", ["mean", "vote"])
def test_an_ensemble_is_fused_as_its_arm_says(tmp_path, monkeypatch, how):
    arms = {"stock": "nnUNetTrainer", "other": "nnUNetTrainerMLL"}
    arms |= {"both": {"ensemble": ["stock", "other"], "fuse": how}}
    space = space_of(tmp_path, "Dataset090_X", Run(), arms=arms)
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    called = []
    monkeypatch.setattr("nnunet_ext.views.folders.vote_folders", lambda *given: called.append(("vote", given)))
    monkeypatch.setattr("nnunetv2.ensembling.ensemble.ensemble_folders", lambda *given: called.append(("mean", given)))
    fuse(space, cells_of(space.spec)[2], ["a", "b"], tmp_path / "output")
    ((found, given),) = called
    assert found == how and list(given[0]) == ["a", "b"]


@slow
def test_ensembles(dataset: Dataset, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_n_proc_DA")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    case, files = next(iter(json.loads((dataset.raw / "dataset.json").read_text())["dataset"].items()))
    shutil.copy(dataset.raw / files["images"][0], tmp_path / "images" / f"{case}_0000.nii.gz")
    shutil.copy(dataset.raw / files["label"], tmp_path / "labels" / f"{case}.nii.gz")
    space = space_of(
        tmp_path / "work",
        dataset.name,
        Run(gpus=(), device="cpu"),
        plans=[PLANS],
        arms={
            "stock": "nnUNetTrainer",
            "MLL": "nnUNetTrainerMLL",
            "both": {"ensemble": ["stock", "MLL"]},
            "vote": {"ensemble": ["stock", "MLL"], "fuse": "vote"},
        },
        epochs=1,
        iterations=3,
        metrics=["Dice"],
        precision="bfloat16",
        postprocessing="largest_component",
        test_sets={"other": {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels")}},
    )
    assert job(space, "prepare", "90").wait(600) == 0
    cells = cells_of(space.spec)
    for cell in cells:
        for step in (["train", cell_key(cell)], ["predict", cell_key(cell), "--test-set", "other"],
                     ["evaluate", cell_key(cell)]):  # fmt: skip
            assert job(space, *step).wait(600) == 0, (space.root / "jobs.log").read_text()
    records = {cell.arm: Record.read(cell.folder(space.root) / RECORD) for cell in cells}
    assert records["stock"].fingerprint.device == "cpu, bfloat16"
    assert records["both"].usage.parameters == 2 * records["stock"].usage.parameters
    assert records["both"].usage.cpu_seconds > records["stock"].usage.cpu_seconds + records["MLL"].usage.cpu_seconds
    assert records["both"].usage.epochs == 0 and records["both"].cell.trainer == "ensemble"
    for cell in cells:
        assert list(csv.DictReader((cell.folder(space.root) / "test_other.csv").open()))

    # By nnU-Net's own commands: the final validation with probabilities, then the mean.
    folders = []
    for cell in cells[:2]:
        model = space.root / "models" / "seed_0" / cell.dataset / f"{cell.trainer}__{cell.plans}__{cell.configuration}"
        again = subprocess.run(
            [Path(sys.executable).parent / "nnUNetv2_train", "90", "2d", "0", "-tr", cell.trainer, "-p", PLANS,
             "--val", "--npz", "-device", "cpu"],
            env=dict(os.environ, nnUNet_results=str(space.root / "models" / "seed_0")), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert again.returncode == 0, again.stderr
        folders.append(model / "fold_0" / "validation")
    both = cells[2].folder(space.root) / "validation"
    names = sorted(path.stem for path in folders[0].glob("*.npz"))
    assert names == sorted(path.name.removesuffix(".nii.gz") for path in both.glob("*.nii.gz"))
    for name in names:
        mean = np.mean([np.load(folder / f"{name}.npz")["probabilities"].astype(np.float32) for folder in folders], 0)
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(both / f"{name}.nii.gz")))
        close = np.sort(mean, 0)[-1] - np.sort(mean, 0)[-2] < 0.02  # the members are predicted in bfloat16
        assert (found == mean.argmax(0))[~close].all()


@slow
def test_a_cascade_learns_from_the_predictions_of_its_first_stage(writable_dataset: Dataset, tmp_path):
    """Both stages of two trainers through one command; two folds, which the second stage needs all."""
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (writable_dataset.raw / "labelsTr").iterdir())
    splits = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:2], "val": cases[2:]}]
    (writable_dataset.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    plans_file = writable_dataset.preprocessed / f"{PLANS}.json"
    plans = json.loads(plans_file.read_text())
    cascade(plans)
    spacing = [1.5 * size for size in plans["configurations"]["3d_fullres"]["spacing"]]
    plans["configurations"]["3d_lowres"] |= {"data_identifier": "coarse", "spacing": spacing}
    plans_file.write_text(json.dumps(plans))
    file = write(
        tmp_path,
        configurations=["3d_lowres", "3d_cascade_fullres"],
        plans=[PLANS],
        folds=[0, 1],
        epochs=1,
        iterations=1,
        metrics=["Dice"],
    )
    work = tmp_path / "work"
    done = subprocess.run(
        command("run", file, "--work", work, "--gpus", "none", "--cores", "2"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = list(read_records(work))
    assert len(records) == 8 and {record.status for record in records} == {"finished"}
    for trainer in ("nnUNetTrainer_1epochs_1iters", "nnUNetTrainerMLL_1epochs_1iters"):
        folder = next((work / "models").rglob(f"{trainer}__{PLANS}__3d_lowres")) / "predicted_next_stage"
        found = folder / "3d_cascade_fullres"
        assert sorted(path.stem for path in found.iterdir()) == cases
        # What the second stage saw is that of its own trainer, and older than its training.
        newest = max(path.stat().st_mtime for path in found.iterdir())
        for record in records:
            if record.cell.trainer == trainer and record.cell.configuration == "3d_cascade_fullres":
                assert datetime.fromisoformat(record.started).timestamp() > newest - 1
