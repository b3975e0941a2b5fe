"""Compare a converted dataset with the truth of the phantom, through nnU-Net's own readers."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_file_ending
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_ext.phantom.layout import Layout, Truth


def assert_equals(dataset: Path, layout: Layout) -> None:
    """Voxels, labels and geometry of all cases, and nothing besides them."""
    content = json.loads((dataset / "dataset.json").read_text())
    train = get_filenames_of_train_images_and_targets(str(dataset))
    assert set(train) == set(layout.train)
    assert content["numTraining"] == len(train)
    for name, truth in layout.train.items():
        assert_case(train[name]["images"], train[name]["label"], truth, content["file_ending"])
    tests = {path.name for path in (dataset / "imagesTs").iterdir()}
    expected = {
        name: [f"{name}_{c:04d}{content['file_ending']}" for c in range(len(truth.channels))]
        for name, truth in layout.test.items()
    }
    assert tests == {file for files in expected.values() for file in files}
    for name, truth in layout.test.items():
        assert_case([dataset / "imagesTs" / f for f in expected[name]], None, truth, content["file_ending"])


def assert_case(images: list, label: str | None, truth: Truth, file_ending: str) -> None:
    reader = determine_reader_writer_from_file_ending(file_ending, verbose=False)()
    voxels, properties = reader.read_images([str(image) for image in images])
    np.testing.assert_array_equal(voxels, np.stack(truth.channels))
    _assert_geometry(properties, truth)
    if label is not None:
        voxels, label_properties = reader.read_seg(str(label))
        np.testing.assert_array_equal(voxels[0], truth.label)
        _assert_geometry(label_properties, truth)


def _assert_geometry(properties: Mapping, truth: Truth) -> None:
    np.testing.assert_allclose(properties["spacing"], truth.spacing, rtol=1e-6)
    if "sitk_stuff" in properties:
        np.testing.assert_allclose(properties["sitk_stuff"]["origin"], truth.origin[::-1], atol=1e-4)
        np.testing.assert_allclose(properties["sitk_stuff"]["direction"], truth.direction, atol=1e-6)
    else:
        affine = properties["nibabel_stuff"]["original_affine"]
        to_ras = np.diag([-1, -1, 1])
        np.testing.assert_allclose(affine[:3, 3], to_ras @ truth.origin[::-1], atol=1e-4)
        axes = to_ras @ np.reshape(truth.direction, (3, 3)) @ np.diag(truth.spacing[::-1])
        np.testing.assert_allclose(affine[:3, :3], axes, atol=1e-4)


def report(dataset: Path) -> dict:
    """The conversion report."""
    return json.loads((dataset / "conversion_report.json").read_text())


def folds(dataset: Path) -> list[dict[str, list[str]]]:
    """The folds nnU-Net will use; every one of them must be sound."""
    content = json.loads((dataset / "dataset.json").read_text())
    result = json.loads((dataset / "splits_final.json").read_text())
    for fold in result:
        assert fold["train"] and fold["val"]
        assert not set(fold["train"]) & set(fold["val"])
        assert len(fold["train"]) + len(fold["val"]) == content["numTraining"]
    return result


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its contents, to show that a source stays untouched."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
