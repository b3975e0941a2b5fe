"""Unlabelled images: their names, colours, voxel sizes and orientation."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from skimage import io

from nnunet_ext.core.errors import UserError
from nnunet_ext.data.unlabelled.images import Header, check_images, find_images, read_header
from tests.conftest import add_unlabelled


@pytest.fixture
def images(writable_dataset):
    return add_unlabelled(writable_dataset, ("one", "two"))


def test_photographs_need_the_colours_of_the_dataset(tmp_path):
    """A reader without headers: each unlabelled image is read, and a few of the training images."""
    read = []

    class Recorded(NaturalImage2DIO):
        def read_images(self, image_fnames):
            read.extend(Path(name).stem for name in image_fnames)
            return super().read_images(image_fnames)

    files = {name: tmp_path / f"{name}.png" for name in ("grey", "colour", *map(str, range(9)))}
    for name, file in files.items():
        io.imsave(file, np.zeros((6, 7) if name == "grey" else (6, 7, 3), np.uint8), check_contrast=False)
    training = {name: [file] for name, file in files.items() if name.isdigit()}
    steps = []
    check_images({"colour": [files["colour"]]}, training, Recorded, 3, lambda *step: steps.append(step))
    assert read == ["0", "4", "8", "colour"]
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    with pytest.raises(UserError, match=r"files of grey in .* have 1 channel.*, where dataset.json names 3: convert"):
        check_images({"grey": [files["grey"]]}, training, Recorded, 3)


def test_tif_images_may_have_their_voxel_size_beside_them(tmp_path):
    for name in ("one_0000.tif", "one.json"):
        (tmp_path / name).touch()
    assert find_images(tmp_path, ".tif", 1, ()) == {"one": [tmp_path / "one_0000.tif"]}
    with pytest.raises(UserError, match=r"one.json is not named CASE_0000.png"):
        find_images(tmp_path, ".png", 1, ())


def test_orientation_is_that_which_the_reader_sees(tmp_path):
    class SimpleITKIO: ...

    class SimpleITKIOWithReorient: ...

    class NibabelIO: ...

    class NibabelIOWithReorient: ...

    file = tmp_path / "image.nii.gz"
    affine = np.array([[0, 0, -3.0, 0], [2, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6)), np.diag([-2.0, 1, 3, 1])), file)
    assert read_header(file, SimpleITKIO) == Header((2, 1, 3), "LAS")
    assert read_header(file, NibabelIO) == Header((2, 1, 3), "LAS")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6)), affine), file)
    assert read_header(file, NibabelIO).orientation == "ASL"
    assert read_header(file, NibabelIOWithReorient).orientation == ""
    assert read_header(file, NibabelIOWithReorient).spacing == pytest.approx((3, 2, 1), abs=0.01)
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6)), affine * (affine != 0.1)), file)
    for reader in (SimpleITKIOWithReorient, NibabelIOWithReorient):
        assert read_header(file, reader) == Header((3, 2, 1), "")
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6, 2)), np.diag([-2.0, 1, 3, 1])), file)
    assert read_header(file, SimpleITKIO) == Header((2, 1, 3), "LAS", 2)
    with pytest.raises(UserError, match=r"cannot be read \(it has 4 dimensions, where nnU-Net's reader .* takes 3\)"):
        read_header(file, NibabelIO)
