"""Values that are no numbers."""

import json
import weakref

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from nnunet_ext.data.unlabelled import values
from nnunet_ext.data.unlabelled.values import not_finite


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".nrrd", ".tif"])
def test_values_that_are_no_numbers_are_counted(tmp_path, ending, value):
    """In each format by what the file holds: ITK reads NaN in NIfTI as 0."""
    file = tmp_path / f"a_0000{ending}"
    array = np.ones((4, 5, 6), np.float32)
    reader = Tiff3DIO if ending == ".tif" else SimpleITKIO
    for expected in (0, 3):
        array[1, 2, 3 : 3 + expected] = value
        if ending == ".tif":
            io.imsave(file, array, check_contrast=False)
            file.with_name("a.json").write_text(json.dumps({"spacing": [1, 1, 1]}))
        elif ending == ".nii.gz":
            nib.save(nib.Nifti1Image(array, np.eye(4)), file)
        else:
            sitk.WriteImage(sitk.GetImageFromArray(array), str(file))
        assert not_finite(file, reader) == expected


def test_an_image_lives_while_its_values_are_counted(tmp_path, monkeypatch):
    """A view of its memory does not keep it: what came there next would be counted."""
    file = tmp_path / "a_0000.mha"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.float32)), str(file))
    images = []
    view_of = sitk.GetArrayViewFromImage
    monkeypatch.setattr(
        sitk, "GetArrayViewFromImage", lambda image: (images.append(weakref.ref(image)), view_of(image))[1]
    )
    lived = []
    monkeypatch.setattr(values, "count_not_finite", lambda array: lived.append(images[0]() is not None))
    not_finite(file, SimpleITKIO)
    assert lived == [True]
