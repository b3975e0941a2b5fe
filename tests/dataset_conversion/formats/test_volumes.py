import gzip
import os
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.formats.geometry import Geometry
from dataset_conversion.formats.nifti_header import ENOUGH, parse_nifti_header
from dataset_conversion.formats.volumes import read_header, read_volume, write_nifti
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import replaced_when_complete

REAL = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[4] / "shared" / "data"))
ARRAY = np.arange(60, dtype=np.int16).reshape(3, 4, 5)


def rotation(x: float, y: float, z: float) -> np.ndarray:
    transform = sitk.Euler3DTransform()
    transform.SetRotation(x, y, z)
    return np.reshape(transform.GetMatrix(), (3, 3))


ROTATIONS = [np.eye(3), np.diag([-1, -1, 1]), rotation(0.3, -0.2, 1.1), rotation(3.0, 0.1, 0), np.eye(3)[[2, 0, 1]]]


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize("axes", ROTATIONS)
@pytest.mark.parametrize("codes", [(1, 1), (1, 0), (0, 2)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_plain_header_is_what_simpleitk_sees(tmp_path, axes, mirror, codes, ending):
    affine = np.eye(4)
    affine[:3, :3] = axes @ np.diag([mirror * 0.7, 1.5, 2.25])
    affine[:3, 3] = (-120.5, 33.25, 7)
    image = nib.Nifti1Image(ARRAY.T, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    path = tmp_path / f"x{ending}"
    nib.save(image, path)
    header = parse_nifti_header(path.read_bytes()[:ENOUGH], compressed=ending == ".nii.gz")
    assert header.affine is not None, "understood without SimpleITK"
    geometry, expected = read_header(path).geometry, sitk.ReadImage(str(path))
    assert geometry.size == expected.GetSize()
    np.testing.assert_allclose(geometry.spacing, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(geometry.origin, expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(geometry.direction, expected.GetDirection(), atol=1e-5)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)


def save(path: Path, edit=None, cls=nib.Nifti1Image, byteorder: str = "<", array: np.ndarray = ARRAY.T) -> Path:
    image = cls(array, np.diag([-1.5, -2, 3, 1]))
    image.set_qform(image.affine, 1)
    if byteorder == ">":
        image = cls(array, None, header=image.header.as_byteswapped(">"))
    if edit:
        edit(image)
    nib.save(image, path)
    return path


def disagree(image) -> None:
    image.set_sform(np.diag([-1.5, -2, 3, 1]) @ np.diag([1, -1, 1, 1]), 1)


@pytest.mark.parametrize(
    "edit",
    [
        lambda image: (image.set_qform(None, 0), image.set_sform(None, 0)),
        disagree,
        lambda image: image.header.set_xyzt_units("meter"),
    ],
)
def test_headers_in_question_are_left_to_simpleitk(tmp_path, edit):
    path = save(tmp_path / "x.nii.gz", edit)
    assert parse_nifti_header(path.read_bytes()[:ENOUGH], compressed=True).affine is None
    geometry, expected = read_header(path).geometry, sitk.ReadImage(str(path))
    assert (geometry.spacing, geometry.direction) == (expected.GetSpacing(), expected.GetDirection())


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"cls": nib.Nifti2Image}])
def test_other_kinds_of_nifti(tmp_path, options):
    volume = read_volume(save(tmp_path / "x.nii.gz", **options))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.geometry.spacing, (1.5, 2, 3))
    assert (volume.path is None) == ("cls" in options), "SimpleITK, and so nnU-Net, does not read NIfTI-2"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_3d_image_stored_as_4d_has_to_be_written_anew(tmp_path, ending):
    volume = read_volume(save(tmp_path / f"x{ending}", array=ARRAY.T[..., None]))
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert volume.geometry.size == (5, 4, 3)
    assert volume.path is None, "nnU-Net refuses such a .nii"


def test_scaled_voxels(tmp_path):
    path = save(tmp_path / "x.nii.gz", lambda image: image.header.set_slope_inter(0.5, 10))
    array = read_volume(path).array
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, sitk.GetArrayFromImage(sitk.ReadImage(str(path))), atol=1e-4)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (40, "<h", 0),
        (42, "<h", -3),
        (72, "<h", 0),
        (80, "<f", 0.0),
        (80, "<f", float("nan")),
        (108, "<f", 3.0),
        (344, "<i", 7),
    ],
)
def test_damaged_headers_are_not_understood(tmp_path, offset, form, value):
    path = save(tmp_path / "x.nii")
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, offset, value)
    path.write_bytes(content)
    assert parse_nifti_header(path.read_bytes()[:ENOUGH], compressed=False) is None


# Without the time: names of tests must not depend on when they were collected.
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b", gzip.compress(b"short", mtime=0), b"\x1f\x8b\x08" + b"x" * 500])
def test_files_that_are_no_nifti(tmp_path, content):
    path = tmp_path / "x.nii.gz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.nii\.gz"):
        read_header(path)


def test_altered_checksum_of_a_file_larger_than_any_buffer(tmp_path):
    path = tmp_path / "x.nii.gz"
    array = np.random.default_rng(0).integers(0, 1000, (20, 128, 128), dtype=np.int16)
    write_nifti(path, array, Geometry((128, 128, 20), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel())))
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.nii\.gz is truncated or damaged"):
        read_volume(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file or directory"):
        read_header(tmp_path / "x.nii.gz")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("axes", ROTATIONS)
def test_written_volumes_come_back(tmp_path, ending, axes):
    geometry = Geometry((5, 4, 3), (0.7, 1.5, 2.25), (-3.0, 4.5, 6.0), tuple(axes.ravel().tolist()))
    path = tmp_path / f"x{ending}"
    write_nifti(path, ARRAY, geometry)
    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), ARRAY)
    for name in ("Spacing", "Origin", "Direction"):
        np.testing.assert_allclose(getattr(image, f"Get{name}")(), getattr(geometry, name.lower()), atol=1e-5)
    first = path.read_bytes()
    write_nifti(path, ARRAY, geometry)
    assert path.read_bytes() == first, "the same voxels give the same bytes"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replaced_when_complete(path) as temporary:
        temporary.write_text("new")
        raise ZeroDivisionError
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert path.read_text() == "old"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real images are not at {REAL}")
@pytest.mark.parametrize(
    "name",
    [
        "Task04_Hippocampus/imagesTr/hippocampus_003.nii.gz",
        "Task09_Spleen_sample/imagesTr/spleen_8.nii.gz",
        "totalsegmentator_examples/example_ct.nii.gz",
        "totalsegmentator_examples/example_mr_sm.nii.gz",
    ],
)
def test_real_headers(name):
    volume, expected = read_volume(REAL / name), sitk.ReadImage(str(REAL / name))
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(volume.geometry.spacing, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.origin, expected.GetOrigin(), atol=1e-4)
    np.testing.assert_allclose(volume.geometry.direction, expected.GetDirection(), atol=1e-5)


def test_voxels_that_have_gone_since_are_one_sentence(tmp_path, capfd):
    path = tmp_path / "scan.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((4, 5, 6), np.int16)), str(path))
    read_header(path)
    (tmp_path / "scan.raw").unlink()
    with pytest.raises(UserError, match=r"scan\.mhd has its voxels in scan\.raw, which is missing"):
        read_volume(path)
    assert capfd.readouterr().err == ""
