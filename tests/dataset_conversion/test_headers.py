"""Headers that leave a question open: what is taken, what is said, and where the conversion stops."""

import gzip
import re
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from dataset_conversion.options import Options
from nnunet_ext.core.errors import UserError
from nnunet_ext.phantom.layout import Layout
from nnunet_ext.phantom.lits import write_lits
from nnunet_ext.phantom.msd import write_msd
from nnunet_ext.phantom.sliver07 import write_sliver07
from tests.dataset_conversion.converting import convert_lits, convert_msd, convert_sliver07
from tests.dataset_conversion.dataset_truth import assert_equals, report

SHAPE = (8, 20, 24)
CASE = "phantomabdomen_002"
NAN = float("nan")
QFORM_CODE, SFORM_CODE, PIXDIM, QUATERN_B, SROW_X, SCALING, UNITS = 252, 254, 80, 256, 280, 112, 123


@pytest.fixture
def task(tmp_path: Path) -> Layout:
    return write_msd(tmp_path / "download", cases=2, test_cases=0, shape=SHAPE)


def patch(task: Layout, *changes: tuple, folder: str = "imagesTr") -> Path:
    """Overwrite header fields of one file: offset, form and values of each."""
    path = task.folder / folder / f"{CASE}.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, form, *values in changes:
        struct.pack_into(form, content, offset, *values)
    path.write_bytes(gzip.compress(content))
    return path


def sform(task: Layout, change) -> tuple:
    affine = nib.load(task.folder / "imagesTr" / f"{CASE}.nii.gz").affine[:3].copy()
    change(affine)
    return (SROW_X, "<12f", *affine.ravel())


def scaled(affine):
    affine[:, 1] *= 1.5


def shifted(affine):
    affine[0, 3] += 30


def sheared(affine):
    affine[0, 1] = 0.02 * affine[1, 1]


def spacing_of(dataset: Path) -> tuple[float, ...]:
    """The voxel size that nnU-Net would read of the odd case."""
    (path,) = [p for p in (dataset / "imagesTr").iterdir() if CASE in p.name] or [
        dataset.parents[1] / "download" / "Task90_PhantomAbdomen" / "imagesTr" / f"{CASE}.nii.gz"
    ]
    return sitk.ReadImage(str(path)).GetSpacing()


@pytest.mark.parametrize("check", ["full", "headers"])
@pytest.mark.parametrize("codes", [(), ((QFORM_CODE, "<h", 0),)])
def test_two_voxel_sizes_stop_the_conversion(raw, task, capfd, codes, check):
    patch(task, sform(task, scaled), *codes)
    with pytest.raises(
        UserError, match=rf"{CASE}.nii.gz has two voxel sizes .* \(pixdim\) and .* \(sform\), .*--force"
    ):
        convert_msd(task.folder, Options(check=check))
    assert not list(raw.iterdir())
    dataset = convert_msd(task.folder, Options(check=check, force=True))
    assert "WARNING" not in capfd.readouterr().err, "ITK's own words stay off the terminal"
    np.testing.assert_allclose(spacing_of(dataset), task.train[CASE].spacing[::-1], rtol=1e-6)
    assert "two voxel sizes" in report(dataset)["warnings"][CASE][0]


@pytest.mark.parametrize(
    ("change", "codes", "said"),
    [
        (shifted, (), r"qform and sform of its header place voxels up to 30 mm apart; the sform was taken"),
        (shifted, ((SFORM_CODE, "<h", 2),), "30 mm apart; the qform was taken"),
        (sheared, (), r"the sform in its header are 1\.1 degrees off perpendicular; the qform was taken"),
        (
            sheared,
            ((QFORM_CODE, "<h", 0),),
            r"are 1\.1 degrees off perpendicular; the nearest perpendicular ones were taken, which places voxels up to "
            r"\d\.\d+ mm elsewhere",
        ),
        (
            lambda affine: affine.fill(NAN),
            (),
            "the sform in its header holds values that are no numbers; the qform was",
        ),
        (lambda affine: affine.fill(0), (), "the sform in its header has an axis of length 0; the qform was taken"),
        (lambda affine: None, ((QUATERN_B, "<f", NAN),), "the qform in its header holds values that are no numbers"),
        (
            lambda affine: None,
            ((PIXDIM, "<f", 0.0),),
            r"the voxel size in its header is 0 x .* mm; the sform's, .* taken",
        ),
        (
            lambda affine: None,
            ((PIXDIM, "<f", NAN),),
            r"the voxel size in its header is nan x .*; the sform's, .* taken",
        ),
        (lambda affine: None, ((QFORM_CODE, "<2h", 0, 0),), "its header has no orientation"),
    ],
)
def test_what_was_taken_is_said(raw, task, capfd, change, codes, said):
    capfd.readouterr()
    patch(task, sform(task, change), *codes)
    dataset = convert_msd(task.folder, Options(check="headers"))
    assert list(report(dataset)["warnings"]) == [CASE]
    notes = [text for text in report(dataset)["warnings"][CASE] if "label header" not in text]
    assert any(re.search(said, note) for note in notes), notes
    output = capfd.readouterr().err
    assert not any(word in output for word in ("WARNING", "Warning:", "vnl", "pixdim[")), "libraries keep quiet"
    np.testing.assert_allclose(spacing_of(dataset), task.train[CASE].spacing[::-1], rtol=1e-3)
    written = [p for p in (dataset / "imagesTr").iterdir() if CASE in p.name]
    for path in written:
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), task.train[CASE].channels[0])


@pytest.mark.parametrize(
    "changes",
    [
        ((SROW_X, "<f", NAN), (QFORM_CODE, "<h", 0)),
        ((SROW_X, "<12f", *[0] * 12), (QFORM_CODE, "<h", 0)),
        ((QUATERN_B, "<f", NAN), (SFORM_CODE, "<h", 0)),
        ((PIXDIM + 4, "<f", NAN), (SFORM_CODE, "<h", 0)),
        ((PIXDIM, "<f", 0.0), (QFORM_CODE, "<2h", 0, 0)),
    ],
)
def test_no_usable_geometry(raw, task, changes):
    patch(task, *changes)
    for force in (False, True):
        with pytest.raises(UserError, match=rf"imagesTr/{CASE}.nii.gz has no usable geometry in its header: its "):
            convert_msd(task.folder, Options(force=force))
    patch(task, *changes, folder="labelsTr")
    (task.folder / "imagesTr" / f"{CASE}.nii.gz").unlink()
    sitk_image = sitk.GetImageFromArray(task.train[CASE].channels[0])
    sitk_image.SetSpacing(task.train[CASE].spacing[::-1])
    sitk_image.SetOrigin(task.train[CASE].origin[::-1])
    sitk.WriteImage(sitk_image, str(task.folder / "imagesTr" / f"{CASE}.nii.gz"))
    dataset = convert_msd(task.folder, Options())
    assert_equals(dataset, task)
    assert "label header has no usable geometry" in report(dataset)["warnings"][CASE][0]


@pytest.mark.parametrize("codes", [(SFORM_CODE, "<h", 0), (QFORM_CODE, "<2h", 0, 0)])
def test_negative_voxel_size(raw, task, codes):
    patch(task, (PIXDIM, "<f", -3.0), codes)
    with pytest.raises(UserError, match=rf"{CASE}.nii.gz has a negative voxel size in its header, -3 x .*--force"):
        convert_msd(task.folder, Options())


@pytest.mark.parametrize(
    ("slope", "intercept"), [(0.0, 5.0), (NAN, 5.0), (NAN, NAN), (float("inf"), 0.0), (float("inf"), 5.0)]
)
def test_scaling_that_readers_understand_differently(raw, task, slope, intercept):
    """NIfTI: a slope of 0 means that nothing is scaled; ITK adds the intercept all the same."""
    patch(task, (SCALING, "<2f", slope, intercept))
    assert_equals(convert_msd(task.folder, Options()), task)


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
@pytest.mark.parametrize("kind", ["colour", "complex64"])
def test_voxels_that_are_not_one_number(raw, task, folder, kind):
    path = task.folder / folder / f"{CASE}.nii.gz"
    image = nib.load(path)
    voxels = np.array(image.dataobj)
    new = voxels.astype(np.complex64)
    if kind == "colour":
        new = np.zeros(voxels.shape, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(new, image.affine), path)
    with pytest.raises(UserError, match=rf"{folder}/{CASE}.nii.gz has voxels of the type {kind}, and one real number"):
        convert_msd(task.folder, Options())


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (3, "its header counts in micrometres, and the numbers fit millimetres"),
        (1, "its header counts in metres, .* fit millim"),
    ],
)
def test_unit_that_no_scanner_has(raw, task, code, said):
    patch(task, (UNITS, "<B", code))
    with pytest.raises(UserError, match=rf"imagesTr/{CASE}.nii.gz has voxels of .* mm and is .* mm long, .*: {said}"):
        convert_msd(task.folder, Options())


@pytest.mark.parametrize("change", [lambda a: a + 1000, lambda a: a.clip(-160, 240)])
def test_ct_that_shows_no_air(raw, task, change):
    path = task.folder / "imagesTr" / f"{CASE}.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.array(image.dataobj)).astype(np.int16), image.affine), path)
    with pytest.raises(UserError, match=rf"{CASE}.nii.gz has -?\d+ as its lowest value, and a CT shows air at -1000"):
        convert_msd(task.folder, Options())
    warnings = report(convert_msd(task.folder, Options(force=True)))["warnings"]
    assert "lowest value" in warnings[CASE][0]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("ElementSpacing = nan 1 1", "ElementSpacing is nan 1 1, and 3 numbers are expected"),
        ("ElementSpacing = 0.014 0.017 0.024", "the numbers fit metres"),
        ("ElementNumberOfChannels = 3", ""),
        ("DimSize = 24 20", "DimSize is 24 20, and 3 numbers are expected"),
        ("Offset = nan 0 0", "Offset is nan 0 0, and 3 numbers are expected"),
        ("Offset = 1 2 x", "not a readable MetaImage header"),
        ("ElementDataFile =", "does not name the file with its voxels"),
        ("NDims = 2", "numbers are expected"),
    ],
)
def test_metaimage_headers_are_asked_the_same(raw, tmp_path, line, said):
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    path = layout.folder / "scan" / "liver-orig002.mhd"
    key = line.partition(" =")[0]
    lines = [old for old in path.read_text().splitlines() if not old.startswith(key)]
    lines.insert(len(lines) if key == "ElementDataFile" else -1, line)
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"liver-orig002.* {said}"):
        convert_sliver07(layout.folder, Options())


def test_sheared_metaimage(raw, tmp_path):
    layout = write_sliver07(tmp_path / "d", numbers=(1, 2), test_numbers=(), shape=SHAPE)
    path = layout.folder / "scan" / "liver-orig002.mhd"
    lines = [
        "TransformMatrix = 1 0.1 0 0 1 0 0 0 1" if line.startswith("TransformMatrix") else line
        for line in path.read_text().splitlines()
    ]
    path.write_text("\n".join(lines))
    dataset = convert_sliver07(layout.folder, Options())
    assert any("degrees off perpendicular" in text for text in report(dataset)["warnings"]["sliver07_002"])
    sitk.ReadImage(str(dataset / "imagesTr" / "sliver07_002_0000.nii.gz"))  # nnU-Net can


@pytest.mark.parametrize("check", ["full", "headers"])
def test_everything_that_is_wrong_is_said_at_once(raw, tmp_path, check):
    layout = write_lits(tmp_path / "d", numbers=(0, 1, 2, 3), test_numbers=(0,), shape=SHAPE)
    folder = layout.folder / "Training Batch 1"
    (folder / "segmentation-0.nii").unlink()
    for name in ("volume-1.nii", "segmentation-1.nii", "volume-3.nii"):
        (folder / name).write_bytes((folder / name).read_bytes()[:500])
    with pytest.raises(UserError, match="4 things are wrong") as error:
        convert_lits(layout.folder, Options(check=check))
    lines = str(error.value).splitlines()
    assert len(lines) == 5 and all(line.endswith(".") for line in lines[1:])
    for name in (
        "segmentation-0.nii is missing",
        "volume-1.nii is trunc",
        "segmentation-1.nii is trunc",
        "volume-3.nii",
    ):
        assert sum(name in line for line in lines) == 1
    assert not list(raw.iterdir())


def test_wrong_voxels_of_several_cases_are_said_at_once(raw, task):
    for path in (task.folder / "labelsTr").iterdir():
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.array(image.dataobj) * 50, image.affine), path)
    with pytest.raises(UserError, match="2 things are wrong"):
        convert_msd(task.folder, Options())
    assert not list(raw.glob("Dataset*"))
