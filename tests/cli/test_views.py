"""``nnunet-ext views`` and ``vote``, with the stock commands that they work with."""

import json

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunet_ext.cli.views import run_views, run_vote
from nnunet_ext.core.errors import UserError
from tests.conftest import PLANS, tiny

ROTATED = {2: [1, 0, 2], 3: [2, 0, 1]}


def test_the_views_are_plans_that_stock_nnunet_preprocesses(writable_dataset):
    dataset = writable_dataset
    file = dataset.preprocessed / f"{PLANS}.json"
    plans = json.loads(file.read_text())
    fullres = plans["configurations"]["3d_fullres"]
    fullres |= {"patch_size": [8, 16, 32], "spacing": [4.0, 8.0, 16.0], "median_image_size_in_voxels": [40, 20, 10]}
    fullres["architecture"]["arch_kwargs"]["strides"][2] = [1, 2, 4]
    plans["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "patch_size": [1, 2, 3]}
    plans["transpose_forward"], plans["transpose_backward"] = [1, 2, 0], [2, 0, 1]
    file.write_text(json.dumps(plans))
    run_views(dataset.id, PLANS)
    for view, order in ROTATED.items():
        name = f"{PLANS}_view{view}"
        turned = json.loads((dataset.preprocessed / f"{name}.json").read_text())
        manager = PlansManager(turned)
        assert manager.plans_name == name
        assert manager.transpose_forward == [[1, 2, 0][i] for i in order]
        assert [manager.transpose_forward[i] for i in manager.transpose_backward] == [0, 1, 2]
        full = manager.get_configuration("3d_fullres")
        assert full.patch_size == [[8, 16, 32][i] for i in order]
        assert list(full.spacing) == [[4.0, 8.0, 16.0][i] for i in order]
        assert full.network_arch_init_kwargs["strides"][2] == [[1, 2, 4][i] for i in order]
        assert full.data_identifier.startswith(name)
        assert full.data_identifier.endswith("3d_fullres")
        assert manager.get_configuration("3d_cascade_fullres").patch_size == [[1, 2, 3][i] for i in order]
        flat = manager.get_configuration("2d")
        assert flat.data_identifier == f"{name}_2d"
        assert list(flat.spacing) == [[4.0, 8.0, 16.0][i] for i in order[1:]]
        assert len(flat.patch_size) == 2
        assert flat.batch_dice


def test_a_view_is_preprocessed_trained_and_predicted_and_votes(writable_dataset, tmp_path):
    dataset = writable_dataset
    dataset.run("nnunet-ext", "views", "-d", dataset.id, "-p", PLANS)
    name = f"{PLANS}_view2"
    file = dataset.preprocessed / f"{name}.json"
    turned = tiny(json.loads(file.read_text())) | {"plans_name": name}
    file.write_text(json.dumps(turned))
    dataset.run("nnUNetv2_preprocess", "-d", dataset.id, "-plans_name", name, "-c", "2d", "-np", 1)
    trainer = "nnUNetTrainer_1epochs_1iters"
    options = ["-tr", trainer, "-p", name, "-device", "cpu"]
    dataset.run("nnUNetv2_train", dataset.id, "2d", "0", *options)
    folder = dataset.results / f"{trainer}__{name}__2d" / "fold_0" / "validation"
    dataset.run("nnunet-ext", "vote", folder, folder, folder, "-o", tmp_path / "fused")
    (predicted,) = folder.glob("*.nii.gz")
    one, fused = sitk.ReadImage(str(predicted)), sitk.ReadImage(str(tmp_path / "fused" / predicted.name))
    assert np.array_equal(sitk.GetArrayFromImage(one), sitk.GetArrayFromImage(fused))
    assert fused.GetSpacing() == one.GetSpacing()
    reference = sitk.ReadImage(str(dataset.raw / "labelsTr" / predicted.name))
    assert fused.GetSize() == reference.GetSize()  # turned back


def write_folder(folder, arrays, ending=".nii.gz"):
    folder.mkdir()
    labels = {"background": 0, "liver": 1, "spleen": 2}
    (folder / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ending}))
    for case, array in arrays.items():
        image = sitk.GetImageFromArray(np.asarray(array, np.uint8))
        image.SetSpacing((1.0, 2.0, 3.0))
        sitk.WriteImage(image, str(folder / f"{case}{ending}"))
    return folder


def test_vote_uses_probabilities_where_all_folders_have_them(tmp_path, capsys):
    folders = []
    for label in range(3):
        folder = write_folder(tmp_path / f"p{label}", {"a": np.full((2, 3, 4), label), "b": np.full((2, 3, 4), label)})
        probabilities = np.zeros((3, 2, 3, 4), np.float32)
        probabilities[1] = 1
        np.savez(folder / "a.npz", probabilities=probabilities)
        folders.append(folder)
    run_vote(folders, tmp_path / "fused")
    fused = {case: sitk.ReadImage(str(tmp_path / "fused" / f"{case}.nii.gz")) for case in "ab"}
    assert (sitk.GetArrayFromImage(fused["a"]) == 1).all()
    assert (sitk.GetArrayFromImage(fused["b"]) == 0).all()  # as many neighbours each: the lowest
    assert fused["a"].GetSpacing() == (1.0, 2.0, 3.0)
    said = capsys.readouterr().out
    assert "48 of 48 voxels were tied" in said
    assert "probability in 1 cases, of more votes among the neighbours in 1" in said
    assert json.loads((tmp_path / "fused" / "dataset.json").read_text())["labels"]["spleen"] == 2


def test_what_cannot_be_fused_is_named(tmp_path):
    one = write_folder(tmp_path / "one", {"a": np.zeros((2, 3, 4)), "b": np.zeros((2, 3, 4))})
    two = write_folder(tmp_path / "two", {"a": np.zeros((2, 3, 4))})
    with pytest.raises(UserError, match=r"two lacks b \(1 of 2 cases\)"):
        run_vote([one, two], tmp_path / "out")
    three = write_folder(tmp_path / "three", {"a": np.zeros((2, 3, 5))})
    with pytest.raises(UserError, match=r"three.a\.nii\.gz does not lie as in .*: shape 2 x 3 x 5"):
        run_vote([two, three], tmp_path / "out")
    with pytest.raises(UserError, match="name another folder with -o"):
        run_vote([one, two], two)
    with pytest.raises(UserError, match="takes two folders"):
        run_vote([one], tmp_path / "out")
    with pytest.raises(UserError, match="There is no folder"):
        run_vote([one, tmp_path / "nothing"], tmp_path / "out")
    (two / "dataset.json").unlink()
    (three / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"There is no dataset\.json"):
        run_vote([two, three], tmp_path / "out")


def test_plans_without_another_view_are_refused(writable_dataset):
    dataset = writable_dataset
    with pytest.raises(UserError, match=r"There is no .*nothing\.json: run nnUNetv2_plan_and_preprocess"):
        run_views(dataset.id, "nothing")
    plans = json.loads((dataset.preprocessed / f"{PLANS}.json").read_text())
    del plans["configurations"]["3d_fullres"]
    (dataset.preprocessed / "flat.json").write_text(json.dumps(plans | {"plans_name": "flat"}))
    with pytest.raises(UserError, match="has no configuration 3d_fullres: 2D images have one view"):
        run_views(dataset.id, "flat")
    assert not (dataset.preprocessed / "flat_view2.json").exists()
