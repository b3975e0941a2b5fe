import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dataset_conversion.dicom import dicom_files, order_by_position, read_slice, read_stack
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom import dicom
from nnunet_ext.phantom.anatomy import make_phantom
from nnunet_ext.phantom.layout import Truth, truth_of

REAL = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture
def truth() -> Truth:
    return truth_of(make_phantom(1, (6, 12, 16)), ["liver"])


def stack(folder: Path):
    slices = [read_slice(path) for path in dicom_files(folder)]
    return read_stack([slices[i] for i in order_by_position(slices, one_series=True)])


def write(folder: Path, truth: Truth, **options) -> list[Path]:
    options = {"patient": "p", "name": lambda k: f"{(k * 5) % 6}.dcm"} | options
    name = options.pop("name")
    return dicom.write_series(folder, truth.channels[0], truth, name, **options)


def test_order_is_that_of_positions_whatever_the_names(tmp_path, truth):
    write(tmp_path, truth)
    volume = stack(tmp_path)
    np.testing.assert_array_equal(volume.array, truth.channels[0])
    np.testing.assert_allclose(volume.geometry.spacing, truth.spacing[::-1])
    np.testing.assert_allclose(volume.geometry.origin, truth.origin[::-1])


def test_row_and_column_spacing_are_not_confused(tmp_path, truth):
    for path in write(tmp_path, truth):
        dicom.change(path, PixelSpacing=[2, 3])
    assert stack(tmp_path).geometry.spacing[:2] == (3, 2)


def test_fractional_rescale_gives_float(tmp_path, truth):
    for path in write(tmp_path, truth):
        dicom.change(path, RescaleSlope="0.5")
    expected = (truth.channels[0].astype(np.float32) + 1000) * 0.5 - 1000
    np.testing.assert_array_equal(stack(tmp_path).array, expected)


def test_values_beyond_int16(tmp_path, truth):
    for path in write(tmp_path, truth):
        dicom.change(path, RescaleSlope=100)
    array = stack(tmp_path).array
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, (truth.channels[0].astype(np.float32) + 1000) * 100 - 1000)


def test_lossless_jpeg_which_only_gdcm_decodes(tmp_path, truth):
    for path in write(tmp_path, truth, modality="MR"):
        plain = pydicom.dcmread(path)
        image = sitk.Cast(sitk.ReadImage(str(path)) + 2000, sitk.sitkUInt16)
        for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "SeriesInstanceUID", "InstanceNumber"):
            value = plain[keyword].value
            text = "\\".join(map(str, value)) if isinstance(value, pydicom.multival.MultiValue) else str(value)
            image.SetMetaData(f"{plain[keyword].tag.group:04x}|{plain[keyword].tag.element:04x}", text)
        image.SetMetaData("0008|0060", "MR")
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(path))
        writer.Execute(image)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == pydicom.uid.JPEGLosslessSV1
    np.testing.assert_array_equal(stack(tmp_path).array, truth.channels[0] + 2000)


def set_height(path: Path, height: float) -> None:
    position = read_slice(path).position
    dicom.change(path, ImagePositionPatient=[*position[:2], height])


def heights(paths: list[Path]) -> list[float]:
    return [read_slice(path).position[2] for path in paths]


def test_missing_slice_is_named(tmp_path, truth):
    paths = write(tmp_path, truth)
    paths[3].unlink()
    with pytest.raises(UserError, match=rf"{paths[2].name} and {paths[4].name} are .* slices are missing"):
        stack(tmp_path)


def test_duplicate_slice_is_named(tmp_path, truth):
    paths = write(tmp_path, truth)
    (tmp_path / "copy.dcm").write_bytes(paths[3].read_bytes())
    with pytest.raises(UserError, match="lie at the same position: the slice is there twice"):
        stack(tmp_path)


def test_uneven_spacing_is_named(tmp_path, truth):
    paths = write(tmp_path, truth)
    set_height(paths[3], heights(paths)[3] + 0.2 * truth.spacing[0])
    with pytest.raises(UserError, match="the spacing is not uniform"):
        stack(tmp_path)


def test_rounded_positions_pass(tmp_path, truth):
    paths = write(tmp_path, truth)
    for path, height in zip(paths, heights(paths), strict=True):
        set_height(path, round(height, 1))
    assert stack(tmp_path).geometry.spacing[2] == pytest.approx(truth.spacing[0], abs=0.1)


def test_tilted_gantry_is_refused(tmp_path, truth):
    paths = write(tmp_path, truth)
    for k, path in enumerate(paths):
        x, y, z = read_slice(path).position
        dicom.change(path, ImagePositionPatient=[x, y + 2 * k, z])
    with pytest.raises(UserError, match="tilted gantry"):
        stack(tmp_path)


def test_oblique_series_keeps_its_direction(tmp_path, truth):
    paths = write(tmp_path, truth)
    angle = np.deg2rad(20)
    row, column = [1, 0, 0], [0, float(np.cos(angle)), float(np.sin(angle))]
    normal = np.cross(row, column)
    for k, path in enumerate(paths):
        position = np.array([1.0, 2.0, 3.0]) + normal * k * 5
        dicom.change(
            path,
            ImageOrientationPatient=[f"{v:.8f}" for v in row + column],
            ImagePositionPatient=[f"{v:.8f}" for v in position],
        )
    geometry = stack(tmp_path).geometry
    assert geometry.spacing[2] == pytest.approx(5, abs=1e-5)
    np.testing.assert_allclose(
        np.reshape(geometry.direction, (3, 3)), np.column_stack([row, column, normal]), atol=1e-6
    )


def test_last_digits_of_spacing_and_orientation_may_differ(tmp_path, truth):
    for k, path in enumerate(write(tmp_path, truth)):
        tiny = (k % 2) * 1e-6
        dicom.change(
            path,
            PixelSpacing=[f"{1.00005 + tiny - 5e-7:.8f}", "1.0"],
            ImageOrientationPatient=["1", "0", f"{0.0005 + tiny - 5e-7:.8f}", "0", "1", "0"],
        )
    assert stack(tmp_path).geometry.size == (16, 12, 6)


@pytest.mark.parametrize(
    "tags",
    [
        {"PixelSpacing": [0, 1]},
        {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
        {"ImagePositionPatient": [1, 2]},
        {"NumberOfFrames": 4},
        {"SamplesPerPixel": 3},
    ],
)
def test_senseless_geometry(tmp_path, truth, tags):
    paths = write(tmp_path, truth)
    dicom.change(paths[2], **tags)
    with pytest.raises(UserError, match=f"{paths[2].name} is not a usable DICOM slice"):
        stack(tmp_path)


def test_single_slice(tmp_path, truth):
    paths = write(tmp_path, truth)
    for path in paths[1:]:
        path.unlink()
    with pytest.raises(UserError, match="holds a single DICOM slice"):
        stack(tmp_path)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"real DICOM data are not at {REAL}")
@pytest.mark.parametrize("folder", ["totalsegmentator_examples/example_ct_dicom", "dcmqi_ct3slice/ct-3slice"])
def test_real_series_as_simpleitk_reads_it(folder):
    """The one is named by UID without suffix and compressed with JPEG 2000; both lie about their slice thickness."""
    volume = stack(REAL / folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(REAL / folder))
    expected = sitk.ReadImage(names)
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, sitk.GetArrayFromImage(expected))
    np.testing.assert_allclose(volume.geometry.spacing, expected.GetSpacing(), rtol=1e-6)
    np.testing.assert_allclose(volume.geometry.origin, expected.GetOrigin())
    np.testing.assert_allclose(volume.geometry.direction, expected.GetDirection())
