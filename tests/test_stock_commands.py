"""The commands a user types, in processes of their own, on the shared small dataset."""

import json
import shutil

from tests.conftest import PLANS

TRAINER = "nnUNetTrainerRefinedGAN_1epochs_2iters"


def test_train_continue_export_install_predict(dataset, tmp_path):
    options = ["3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
    log = dataset.run("nnUNetv2_train", dataset.id, *options, "--npz").stdout
    assert "Auxiliary networks that start from random weights: discriminator_1, discriminator_2" in log
    model = dataset.results / f"{TRAINER}__{PLANS}__3d_fullres"
    validation = model / "fold_0" / "validation"
    assert json.loads((validation / "summary.json").read_text())["metric_per_case"]
    assert list(validation.glob("*.npz"))
    assert (model / "fold_0" / "loss_terms.png").exists()

    # --c after the end trains no more, and validates again
    shutil.rmtree(validation)
    assert "Epoch 0" not in dataset.run("nnUNetv2_train", dataset.id, *options, "--c").stdout
    assert (validation / "summary.json").exists()

    # the model travels as a file, and predicts where only nnU-Net and this package are installed
    selection = ["-c", "3d_fullres", "-f", 0, "-tr", TRAINER, "-p", PLANS]
    dataset.run("nnUNetv2_export_model_to_zip", "-d", dataset.id, "-o", tmp_path / "model.zip", *selection)
    shutil.rmtree(dataset.results)
    dataset.run("nnUNetv2_install_pretrained_model_from_zip", tmp_path / "model.zip")
    command = ["nnUNetv2_predict", "-i", dataset.raw / "imagesTs", "-o", tmp_path / "predicted", "-d", dataset.id]
    dataset.run(*command, *selection, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert [path.name for path in (tmp_path / "predicted").glob("*.nii.gz")] == ["phantomabdomen_006.nii.gz"]


def test_two_networks_train_on_unlabelled_images_and_predict(unlabelled_dataset, tmp_path):
    dataset, trainer = unlabelled_dataset, "nnUNetTrainerSDNet_2epochs_1iters"
    log = dataset.run(
        "nnUNetv2_train", dataset.id, "3d_fullres", "0", "-tr", trainer, "-p", PLANS, "-device", "cpu"
    ).stdout
    assert "3 unlabelled images; a batch with them has 1 labelled and 1 unlabelled" in log
    assert "3 unlabelled images join in epoch 1" in log
    assert "Mean Validation Dice" in log
    selection = ["-c", "3d_fullres", "-f", 0, "-tr", trainer, "-p", PLANS]
    dataset.run("nnUNetv2_find_best_configuration", dataset.id, *selection, "--disable_ensembling")
    command = ["nnUNetv2_predict", "-i", dataset.raw / "imagesTs", "-o", tmp_path / "predicted", "-d", dataset.id]
    dataset.run(*command, *selection, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert [path.name for path in (tmp_path / "predicted").glob("*.nii.gz")] == ["phantomabdomen_006.nii.gz"]


SMALL = """
from nnunet_ext.trainers.coarse_to_fine import nnUNetTrainerMLN


class nnUNetTrainerSmallMLN(nnUNetTrainerMLN):
    coarse_features = fine_features = (8, 8, 16, 16)
    channels = 16
"""


def test_a_network_of_slices_trains_and_predicts_under_a_changed_width(dataset, monkeypatch, tmp_path):
    """The options of a trainer are class attributes: a subclass in a folder of the user's own changes them."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_trainers.py").write_text(SMALL)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "own"))
    monkeypatch.setenv("NNUNET_EXT_RESNET18", "random")
    trainer = "nnUNetTrainerSmallMLN_1epochs_1iters"
    options = ["2d", "0", "-tr", trainer, "-p", PLANS, "-device", "cpu"]
    log = dataset.run("nnUNetv2_train", dataset.id, *options).stdout
    assert "All weights start at random" in log
    assert "rounds: " in log[log.index("Training done") :]
    monkeypatch.delenv("NNUNET_EXT_RESNET18")  # not needed to predict
    command = ["nnUNetv2_predict", "-i", dataset.raw / "imagesTs", "-o", tmp_path / "predicted", "-d", dataset.id]
    selection = ["-c", "2d", "-f", 0, "-tr", trainer, "-p", PLANS]
    dataset.run(*command, *selection, "-device", "cpu", "-npp", 1, "-nps", 1)
    assert [path.name for path in (tmp_path / "predicted").glob("*.nii.gz")] == ["phantomabdomen_006.nii.gz"]


def test_unknown_trainer_name(dataset):
    result = dataset.run(
        "nnUNetv2_train", dataset.id, "3d_fullres", "0", "-tr", "nnUNetTrainerRefinedGEN", "-device", "cpu", check=False
    )
    assert result.returncode != 0
    assert "did you mean nnUNetTrainerRefinedGAN" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_truncated_checkpoint_stops_a_continued_run(dataset):
    options = ["3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
    fold = dataset.results / f"{TRAINER}__{PLANS}__3d_fullres" / "fold_0"
    fold.mkdir(parents=True)
    (fold / "checkpoint_latest.pth").write_bytes(b"PK\x03\x04")
    result = dataset.run("nnUNetv2_train", dataset.id, *options, "--c", check=False)
    assert result.returncode != 0
    assert "cannot be read" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_doctor_trainers_and_path(dataset):
    report = dataset.run("nnunet-ext", "doctor").stdout
    assert "found by name" in report
    assert "fix" not in report
    assert "RefinedGAN" in dataset.run("nnunet-ext", "trainers").stdout
    assert dataset.run("nnunet-ext", "path").stdout.strip().endswith("search_path")


def test_doctor_names_what_to_fix(dataset, monkeypatch):
    monkeypatch.setenv("NNUNET_EXT_NO_PLUGIN", "1")
    monkeypatch.setenv("nnUNet_extTrainer", "")
    environment = dataset.environment()
    assert environment["NNUNET_EXT_NO_PLUGIN"] == "1"
    (dataset.root / "nnUNet_results").rmdir()
    result = dataset.run("nnunet-ext", "doctor", check=False)
    assert result.returncode == 1
    assert "nnUNet_results points at" in result.stdout
    assert "export nnUNet_extTrainer=" in result.stdout
