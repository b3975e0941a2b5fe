"""Slices as people look at them."""

import base64
import io

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from nnunet_ext.evaluation.reading import LabelMap, find_readers, read_label_map
from nnunet_ext.evaluation.slices import View, contour_picture, view_of
from tests.evaluation.folders import write

READERS = find_readers({"file_ending": ".nii.gz"})


@pytest.mark.parametrize(
    ("stored", "plane"),
    [("LPS", "axial"), ("RAS", "axial"), ("PLS", "axial"), ("LSA", "coronal"), ("SRP", "coronal"), ("ASR", "sagittal")],
)
def test_front_and_head_are_up_and_the_left_is_on_the_right_however_stored(tmp_path, stored, plane):
    """Marks at the patient's left, back and head are where people expect them in every slice."""
    array = np.zeros((6, 7, 8), np.uint8)  # z up, y back, x left
    array[:, :, -1], array[:, -1, :], array[-1, :, :] = 1, 2, 3
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 2.0, 3.0))
    file = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.DICOMOrient(image, stored), str(file))
    label_map = read_label_map(file, READERS)
    view = view_of(label_map)
    shown = view.turned(label_map.array[2])
    assert view.plane == plane
    right, down, spacing = {
        "axial": (1, 2, (2.0, 1.0)),
        "coronal": (1, None, (3.0, 1.0)),
        "sagittal": (2, None, (3.0, 2.0)),
    }[plane]
    assert view.spacing(label_map.spacing) == pytest.approx(spacing)
    middle = tuple(n // 2 for n in shown.shape)
    assert shown[middle[0], -1] == right and shown[middle[0], 0] != right
    if down:
        assert shown[-1, middle[1]] == down and shown[0, middle[1]] != down
    else:
        assert shown[0, middle[1]] == 3 and shown[-1, middle[1]] != 3  # the head


def test_without_a_position_slices_stay_as_they_are(tmp_path):
    flat = read_label_map(write(tmp_path / "flat.nii.gz", np.eye(4, dtype=np.uint8), (1, 1)), READERS)
    assert view_of(flat) == View()
    assert view_of(LabelMap(flat.array, (1, 1, 1), (), False, object)) == View()


@pytest.mark.parametrize("lossy", [False, True])
def test_a_contour_has_its_colour_and_the_picture_the_shape_of_the_slice_in_mm(lossy):
    mask = np.zeros((20, 40), bool)
    mask[5:15, 10:30] = True
    uri = contour_picture(np.full(mask.shape, 0.5), [(mask, "#00ff00")], (2.0, 1.0), width=2, dpi=100, lossy=lossy)
    head, _, data = uri.partition(",")
    assert head == f"data:image/{'jpeg' if lossy else 'png'};base64"
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)
    assert pixels.shape == (200, 200, 3)
    green = (pixels[..., 1] - pixels[..., 0] > 80).nonzero()
    for axis, (low, high) in enumerate(((50, 150), (50, 150))):
        assert abs(green[axis].min() - low) < 6 and abs(green[axis].max() - high) < 6
    assert abs(pixels[100, 100] - 127).max() < 6
