import gzip
import re

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from skimage import io as skio

from nnunet_ext.core.errors import UserError
from nnunet_ext.evaluation.reading import UnreadableError, find_readers, geometry_difference, read_label_map
from tests.evaluation.folders import SPACING, label_map, write


def readers(ending, name="None"):
    return find_readers({"file_ending": ending, "overwrite_image_reader_writer": name})


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_label_maps_are_integers_in_array_order(tmp_path, ending, dtype):
    file = write(tmp_path / f"a{ending}", label_map(0).astype(dtype))
    found = read_label_map(file, readers(ending))
    assert found.array.dtype == np.uint8 and not found.flat
    np.testing.assert_array_equal(found.array, label_map(0))
    assert found.spacing == pytest.approx(SPACING)


@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
def test_same_values_as_the_reader_of_nnunet(tmp_path, name):
    file = write(tmp_path / "a.nii.gz", label_map(0))
    chosen = readers(".nii.gz", name)
    array, properties = chosen.named().read_seg(str(file))
    found = read_label_map(file, chosen)
    np.testing.assert_array_equal(found.array, array[0])
    assert found.spacing == pytest.approx(tuple(properties["spacing"]))


def test_many_labels_keep_their_values(tmp_path):
    array = np.array([[[0, 255, 256, 65535]]], np.uint16)
    file = write(tmp_path / "a.nii.gz", array, (1, 1, 1))
    found = read_label_map(file, readers(".nii.gz"))
    np.testing.assert_array_equal(found.array, array)


def test_natural_images_are_flat(tmp_path):
    file = tmp_path / "a.png"
    skio.imsave(file, label_map(0)[4], check_contrast=False)
    found = read_label_map(file, readers(".png"))
    assert found.flat and found.array.shape == (1, 24, 26) and found.spacing[1:] == (1.0, 1.0)
    flat = write(tmp_path / "b.mha", label_map(0)[4], SPACING[1:])
    found = read_label_map(flat, readers(".mha"))
    assert found.flat and found.array.shape == (1, 24, 26) and found.spacing[1:] == pytest.approx(SPACING[1:])


def test_a_header_that_simpleitk_refuses_is_read_by_nibabel(tmp_path):
    affine = np.diag([0.7, 0.8, 2.5, 1.0])
    affine[0, 1] = 0.3  # not orthogonal
    file = tmp_path / "a.nii.gz"
    image = nibabel.Nifti1Image(label_map(0).transpose(2, 1, 0), affine)
    image.set_sform(affine, 1)
    image.set_qform(None, 0)
    nibabel.save(image, file)
    with pytest.raises(RuntimeError):
        sitk.ReadImage(str(file))
    found = read_label_map(file, readers(".nii.gz"))
    assert found.reader.__name__ == "NibabelIO"
    np.testing.assert_array_equal(found.array, label_map(0))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.full((2, 2, 2), 1.5), "whole numbers"),
        (np.full((2, 2, 2), -1, np.int16), "negative"),
        (np.full((2, 2, 2), np.nan), "finite"),
        (np.zeros((2, 2, 2, 2)), "dimensions"),
    ],
)
def test_what_is_not_a_label_map(tmp_path, array, message):
    file = tmp_path / "a.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), file)
    with pytest.raises(UnreadableError, match=message) as error:
        read_label_map(file, readers(".nii.gz", "NibabelIO"))
    assert str(file) in str(error.value)


def test_a_broken_file_is_named_in_one_line(tmp_path):
    file = tmp_path / "broken.nii.gz"
    file.write_bytes(b"no image")
    with pytest.raises(UnreadableError, match=r"broken\.nii\.gz") as error:
        read_label_map(file, readers(".nii.gz", "SimpleITKIO"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("name", ["SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"])
@pytest.mark.parametrize("damage", ["cut", "checksum"])
def test_a_truncated_file_is_not_filled_with_background(tmp_path, ending, name, damage):
    rng = np.random.default_rng(0)
    file = tmp_path / f"damaged{ending}"
    nibabel.save(nibabel.Nifti1Image(rng.integers(0, 3, (20, 20, 20)).astype(np.uint8), np.eye(4)), file)
    content = file.read_bytes()
    read_label_map(file, readers(ending, name))
    if damage == "checksum":
        if ending == ".nii":
            pytest.skip("uncompressed files have no checksum")
        content = content[:-8] + bytes([content[-8] ^ 1]) + content[-7:]
    else:
        content = content[: len(content) * 2 // 3]
    file.write_bytes(content)
    with pytest.raises(UnreadableError, match=r"damaged\.nii"):
        read_label_map(file, readers(ending, name))


def test_unknown_formats():
    with pytest.raises(UserError, match=r"\.jpg"):
        readers(".jpg")
    with pytest.raises(UserError, match="NoSuchIO"):
        readers(".nii.gz", "NoSuchIO")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"origin": (1.0001, -2.0, 3.0)}, None),
        ({"spacing": (2.5, 0.8, 0.71)}, "spacing"),
        ({"origin": (1.0, -2.0, 4.0)}, "origin"),
        ({"crop": True}, "shape"),
    ],
)
def test_geometry(tmp_path, change, message):
    array = label_map(0)[1:] if change.pop("crop", False) else label_map(0)
    files = write(tmp_path / "a.nii.gz", label_map(0)), write(tmp_path / "b.nii.gz", array, **change)
    maps = [read_label_map(f, readers(".nii.gz", "SimpleITKIO")) for f in files]
    difference = geometry_difference(*maps)
    assert difference is None if message is None else message in str(difference)


def test_itk_does_not_read_the_file_beside(tmp_path):
    """Asked for a.nii.gz, the NIfTI library in ITK takes the voxels of a.nii."""
    for ending, value in ((".nii", 2), (".nii.gz", 1)):
        nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), value, np.uint8), np.eye(4)), tmp_path / f"a{ending}")
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.nii.gz"))).max() == 2
    assert read_label_map(tmp_path / "a.nii.gz", readers(".nii.gz")).array.max() == 1
    assert read_label_map(tmp_path / "a.nii", readers(".nii.gz")).array.max() == 2
    with pytest.raises(UnreadableError, match="beside it"):
        read_label_map(tmp_path / "a.nii.gz", readers(".nii.gz", "SimpleITKIO"))


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_values_that_are_no_numbers(tmp_path, ending):
    """ITK reads them in NIfTI as 0."""
    array = label_map(0).astype(np.float32)
    array[2, 3, 4] = np.nan
    with pytest.raises(UnreadableError, match="not finite"):
        read_label_map(write(tmp_path / f"a{ending}", array), readers(ending))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("xyzt_units", 3, "is the unit right"),
        ("srow_z", [0, 0, 3.75, 0], "header says voxels of .* its sform"),
        ("qoffset_x", 40, "sform and qform disagree, by 40 mm"),
    ],
)
def test_odd_headers_are_remarked_on(tmp_path, field, value, message, capfd):
    image = nibabel.Nifti1Image(label_map(0).T, np.diag([0.7, 0.8, 2.5, 1]))
    image.set_qform(image.affine, 1)
    file = tmp_path / "a.nii.gz"
    nibabel.save(image, file)
    assert not read_label_map(file, readers(".nii.gz")).remark
    content = gzip.decompress(file.read_bytes())
    header = nibabel.Nifti1Header(content[:348], check=False)
    header.structarr[field] = value
    file.write_bytes(gzip.compress(header.binaryblock + content[348:]))
    assert re.search(message, read_label_map(file, readers(".nii.gz")).remark)
    assert capfd.readouterr().err == ""


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("a.nii.gz")
    with pytest.raises(UnreadableError, match=r"a link to a\.nii\.gz, which is not there"):
        read_label_map(tmp_path / "a.nii.gz", readers(".nii.gz"))
