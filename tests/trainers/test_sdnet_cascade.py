"""SD-Net in nnU-Net's cascade: the first stage predicts the unlabelled images for the second."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled import next_stage
from nnunet_ext.data.unlabelled.preprocess import preprocess_images
from nnunet_ext.data.unlabelled.store import case_files
from tests.trainers.sdnet_runs import LABELLED, SDNET, initialize_apart, ready
from tests.training.building import build, cascade

pytestmark = pytest.mark.usefixtures("usual_sdnet_run")


def coarse_cascade(plans):
    """A first stage of half the resolution."""
    cascade(plans)
    spacing = [2 * s for s in plans["configurations"]["3d_fullres"]["spacing"]]
    plans["configurations"]["3d_lowres"] |= {"data_identifier": "coarse", "spacing": spacing}


@pytest.fixture
def cascaded(unlabelled_dataset, tmp_path, monkeypatch):
    """Both stages; the unlabelled images are preprocessed for them, and the stock validation does nothing."""
    monkeypatch.setattr(nnUNetTrainer, "perform_actual_validation", lambda *_: None)
    second = build(unlabelled_dataset, SDNET, configuration="3d_cascade_fullres", change_plans=coarse_cascade)
    first = build(unlabelled_dataset, SDNET, configuration="3d_lowres", change_plans=coarse_cascade)
    own = tmp_path / "own"
    identifier = second.configuration_manager.data_identifier
    for folder in (identifier, f"{identifier}_unlabelled"):
        shutil.copytree(unlabelled_dataset.preprocessed / folder, own / folder)
    shutil.copy(unlabelled_dataset.preprocessed / f"{identifier}_unlabelled.json", own)
    shutil.copytree(own / identifier, own / "coarse")  # the labelled cases, which nothing here reads
    images = {case: [unlabelled_dataset.raw / "imagesUn" / f"{case}_0000.nii.gz"] for case in ("one", "two", "three")}
    manager = (first.plans_manager, first.configuration_manager, first.dataset_json)
    preprocess_images(images, *manager, own, 1, lambda done, total: None)
    for trainer in (first, second):
        trainer.preprocessed_dataset_folder_base = str(own)
        trainer.preprocessed_dataset_folder = str(own / trainer.configuration_manager.data_identifier)
    initialize_apart(first)
    return first, second


def test_the_first_stage_of_a_cascade_predicts_unlabelled_images(cascaded, capsys):
    first, second = cascaded
    with pytest.raises(UserError, match=r"no prediction of the unlabelled one.* \(3 of 3 .* train 3d_lowres with"):
        second.on_train_start()
    first.inference_allowed_mirroring_axes = (0, 1, 2)
    first.perform_actual_validation()
    assert "WARNING" not in capsys.readouterr().out

    assert first.networks()[0].decoder.deep_supervision  # as before
    first.set_deep_supervision_enabled(False)
    configuration = first.configuration_manager
    spacing = configuration.spacing
    for case in second.unlabelled_dataset().identifiers:
        fine, _, previous, _ = second.unlabelled_dataset().load_case(case)
        coarse = first.unlabelled_dataset().load_case(case)[0]
        assert coarse.shape[1] < fine.shape[1]
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, perform_everything_on_device=False)
        logits = []
        for network in first.networks():
            settings = (first.plans_manager, configuration, None, first.dataset_json, "", (0, 1, 2))
            predictor.manual_initialization(network, *settings)
            logits.append(predictor.predict_sliding_window_return_logits(torch.from_numpy(coarse[:])).float())
        mean = (logits[0] + logits[1]) / 2
        expected = np.asarray(configuration.resampling_fn_probabilities(mean, fine.shape[1:], spacing, spacing)).argmax(
            0
        )
        assert len(np.unique(expected)) > 1
        assert (previous[:] == expected).mean() > 0.999  # logits of a sliding window are sums in float16

    second.initialize()
    second._augmentation = second.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    batch = next(second._start_unlabelled_loader())
    assert batch["data"].shape[1] == 1 + len(second.label_manager.foreground_labels)

    folder = Path(second.folder_with_segs_from_previous_stage)
    for damage in (lambda file: file.write_bytes(file.read_bytes()[:20]), Path.unlink):
        damage(folder / "two.b2nd")
        with pytest.raises(UserError, match=r"no prediction of the unlabelled two, or none of its shape \(1 of 3 "):
            second.unlabelled_dataset()
    shutil.copy(second.preprocessed_dataset_folder + "_unlabelled/two.b2nd", folder)
    with pytest.raises(UserError, match=r"no prediction of the unlabelled two, or none of its shape \(1 of 3 "):
        second.unlabelled_dataset()


def test_each_device_predicts_its_share_of_the_unlabelled_images(cascaded, monkeypatch):
    first, _ = cascaded
    monkeypatch.setattr(next_stage, "_CASES_BETWEEN_WAITS", 1)
    asked, logged, waits = [], [], []

    def predict(image):
        asked.append(image.shape)
        return torch.zeros(first.label_manager.num_segmentation_heads, *image.shape[1:])

    for rank, expected in enumerate((["one", "two"], ["one", "three", "two"])):  # then what both have made
        output = Path(first.output_folder_base) / "shared"
        next_stage.predict_for_next_stage(
            predict,
            first.unlabelled_dataset(),
            first.plans_manager,
            ("3d_lowres", "3d_cascade_fullres"),
            first.dataset_json,
            Path(first.preprocessed_dataset_folder_base),
            output,
            logged.append,
            next_stage.Share(rank, 2, lambda rank=rank: waits.append(rank)),
        )
        assert sorted(file.name for file in output.iterdir()) == [f"{case}.b2nd" for case in expected]
    assert len(asked) == 3
    assert logged == [f"predicting the unlabelled {case}" for case in ("one", "two", "three")]
    assert waits.count(0) == waits.count(1) > 0


def test_what_keeps_the_first_stage_from_predicting_unlabelled_images(cascaded, unlabelled_dataset, capsys):
    first, second = cascaded
    output = Path(first.output_folder_base) / "predicted_next_stage"
    for file in case_files(Path(second.preprocessed_dataset_folder + "_unlabelled"), "two"):
        file.unlink()
    first.perform_actual_validation()
    assert "1 of 3 unlabelled images are not preprocessed for 3d_cascade_fullres" in capsys.readouterr().out
    assert sorted(file.stem for file in output.rglob("*.b2nd")) == ["one", "three"]
    first.preprocessed_dataset_folder_base = "nowhere"
    first.perform_actual_validation()
    assert "no unlabelled images are predicted for the next stage. There are no" in capsys.readouterr().out
    shutil.rmtree(output)
    labelled, _ = ready(unlabelled_dataset, LABELLED, configuration="3d_lowres", change_plans=cascade)
    labelled.perform_actual_validation()
    assert not list(Path(labelled.output_folder_base).glob("predicted_next_stage"))
