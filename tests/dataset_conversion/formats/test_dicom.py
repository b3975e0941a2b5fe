import io
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from dataset_conversion.formats.dicom import dicom_files, order_by_position, read_slice, read_stack
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom import dicom
from nnunet_ext.phantom.anatomy import make_phantom
from nnunet_ext.phantom.layout import Truth, truth_of

REAL = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[4] / "shared" / "data"))


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


def compress(path: Path, compressor: str) -> None:
    """Compress all bits of all pixels, as they are, with what GDCM writes."""
    data = pydicom.dcmread(path)
    kind = np.int16 if data.PixelRepresentation else np.uint16
    image = sitk.GetImageFromArray(np.frombuffer(data.PixelData, kind).reshape(1, data.Rows, data.Columns))
    writer = sitk.ImageFileWriter()
    writer.SetUseCompression(True)
    writer.SetCompressor(compressor)
    writer.SetFileName(str(path.with_name("compressed.dcm")))
    writer.Execute(image)
    compressed = pydicom.dcmread(path.with_name("compressed.dcm"))
    path.with_name("compressed.dcm").unlink()
    data.PixelData = compressed.PixelData
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
    data.save_as(path)


@pytest.mark.parametrize("syntax", ["plain", "RLE", "JPEG", "JPEG2000"])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("high", [11, 14])
def test_only_the_stored_bits_count(tmp_path, truth, syntax, signed, high):
    """The bits around them hold an overlay in old files (DICOM PS3.5, 8.1.1)."""
    rng = np.random.default_rng(0)
    least, below = (-1000, -2048) if signed else (0, 0)
    expected = truth.channels[0].clip(-1000)
    for path, plane in zip(write(tmp_path, truth), expected, strict=True):
        data = pydicom.dcmread(path)
        stored = (plane.astype(np.int32) + 1000 + least).clip(below, below + 4095)
        words = (stored & 4095) << (high - 11)
        words |= rng.integers(0, 2**16, stored.shape) & ~(4095 << (high - 11)) & 0xFFFF
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, high, int(signed)
        data.RescaleIntercept = -1000 - least
        data.PixelData = words.astype(np.uint16).tobytes()
        if syntax == "RLE":
            data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
        data.save_as(path)
        if syntax.startswith("JPEG"):
            compress(path, syntax)
    np.testing.assert_array_equal(stack(tmp_path).array, expected)


def test_padding_beyond_the_stored_bits_is_the_lowest_value(tmp_path, truth):
    for path in write(tmp_path, truth):
        data = pydicom.dcmread(path)
        stored = (data.pixel_array.clip(0)).astype(np.uint16)
        stored[:2] = 63536  # -2000 in 16 bits, as some scanners write it
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
        data.add_new("PixelPaddingValue", "US", 63536)
        data.PixelData = stored.tobytes()
        data.save_as(path)
    expected = truth.channels[0].clip(-1000)
    expected[:, :2] = -1000
    np.testing.assert_array_equal(stack(tmp_path).array, expected)


@pytest.mark.parametrize("value", [None, ""])
@pytest.mark.parametrize("tags", [("RescaleSlope", "RescaleIntercept"), ("RescaleIntercept",), ("RescaleSlope",)])
def test_ct_without_rescaling_is_doubted_and_mr_is_not(tmp_path, truth, tags, value):
    for folder, modality in (("ct", "CT"), ("mr", "MR")):
        for path in write(tmp_path / folder, truth, modality=modality):
            if modality == "CT" or value == "":
                dicom.change(path, **dict.fromkeys(tags, value))
    assert "CT slices without RescaleSlope" in stack(tmp_path / "ct").remarks.doubts[0]
    assert stack(tmp_path / "mr").remarks.doubts == ()
    np.testing.assert_array_equal(stack(tmp_path / "mr").array, truth.channels[0])


def test_rescaling_of_some_slices_only(tmp_path, truth):
    paths = write(tmp_path, truth)
    dicom.change(paths[2], RescaleSlope=None)
    with pytest.raises(UserError, match=f"{paths[2].name} differs in having a rescale slope"):
        stack(tmp_path)


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows"])
@pytest.mark.parametrize(("value", "state"), [(None, "missing"), ("", "empty")])
def test_the_tag_at_fault_is_named(tmp_path, truth, tag, value, state):
    paths = write(tmp_path, truth)
    data = pydicom.dcmread(paths[2])
    if value is None:
        delattr(data, tag)
    else:
        data[tag].value = None
    data.save_as(paths[2])
    with pytest.raises(UserError, match=rf"{paths[2].name} is not a usable DICOM slice .*{tag} is {state}"):
        read_slice(paths[2])


def rewrite(path: Path, implicit: bool, **options) -> None:
    """Write a file anew without Transfer Syntax UID."""
    data = pydicom.dcmread(path)
    list(data.iterall())  # decode everything, to write it in another order of bytes
    del data.file_meta.TransferSyntaxUID
    buffer = io.BytesIO()
    little = options.pop("little_endian", True)
    if not little:
        data.PixelData = data.pixel_array.astype(">i2").tobytes()
    if options.pop("no_preamble", False):
        data.preamble, data.file_meta = None, pydicom.dataset.FileMetaDataset()
    pydicom.dcmwrite(buffer, data, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("options", [{"implicit": False}, {"implicit": True}, {"implicit": True, "no_preamble": True}])
def test_transfer_syntax_that_is_not_named(tmp_path, truth, options):
    for path in write(tmp_path, truth):
        rewrite(path, **options)
    np.testing.assert_array_equal(stack(tmp_path).array, truth.channels[0])


def test_compressed_pixels_of_a_syntax_that_is_not_named(tmp_path, truth):
    paths = write(tmp_path, truth)
    data = pydicom.dcmread(paths[2])
    data.compress(pydicom.uid.RLELossless, generate_instance_uid=False)
    data.save_as(paths[2])
    rewrite(paths[2], implicit=False)
    with pytest.raises(UserError, match=f"{paths[2].name} has no Transfer Syntax UID, and its pixels are compressed"):
        stack(tmp_path)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"NumberOfFrames": 4}, "it holds 4 frames, CT Image Storage.*one file a slice"),
        ({"SOPClassUID": pydicom.uid.EnhancedCTImageStorage}, "Enhanced CT Image Storage.*one file a slice"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "its pixels are colours, RGB"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "its pixels are colours, PALETTE COLOR"),
        ({"RescaleSlope": 0}, "RescaleSlope is 0"),
        ({"RescaleSlope": 0, "RescaleIntercept": None}, "RescaleSlope is 0"),
    ],
)
def test_what_is_no_grey_slice_is_said(tmp_path, truth, tags, said):
    paths = write(tmp_path, truth)
    dicom.change(paths[2], **tags)
    with pytest.raises(UserError, match=rf"{paths[2].name} is not a usable DICOM slice \(.*{said}"):
        read_slice(paths[2])


def test_more_pixels_than_rows_and_columns_make(tmp_path, truth, recwarn):
    paths = write(tmp_path / "ct", truth)
    for path in paths:
        dicom.change(path, Rows=3)
    with pytest.raises(UserError, match=r"holds more pixels than its 3 rows and \d+ columns, so that one of the two"):
        stack(tmp_path / "ct")
    assert not recwarn.list


def test_link_to_a_slice_that_is_gone(tmp_path, truth):
    paths = write(tmp_path, truth)
    paths[-1].unlink()
    paths[-1].symlink_to(tmp_path / "gone.dcm")
    with pytest.raises(UserError, match=f"{paths[-1].name} is not a usable DICOM slice .*No such file"):
        stack(tmp_path)


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
