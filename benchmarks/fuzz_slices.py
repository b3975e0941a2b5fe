# ruff: noqa: D103 - a mutation is described by its name
"""Mutations of DICOM slices and PNG masks."""

from __future__ import annotations

import io
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from fuzz_scene import NAMED, REFUSED, RIGHT, Scene, mutation
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import uid


def _edit(paths: list[Path], change: Callable[[pydicom.Dataset], None], **options: Any) -> None:
    for path in paths:
        data = pydicom.dcmread(path)
        change(data)
        data.save_as(path, **options)


def _some(scene: Scene, paths: list[Path]) -> list[Path]:
    return [scene.choose_silently(paths)] if scene.choose(["all", "one"]) == "one" else paths


@mutation("dicom")
def missing_or_empty_tag(scene: Scene) -> set[str]:
    series = scene.series()
    tag = scene.choose(
        [
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "PixelSpacing",
            "Rows",
            "Columns",
            "BitsStored",
            "BitsAllocated",
            "HighBit",
            "PixelRepresentation",
            "InstanceNumber",
            "SeriesInstanceUID",
            "EchoTime",
            "Modality",
            "SOPClassUID",
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "RescaleSlope",
            "RescaleIntercept",
            "PixelData",
        ]
    )
    empty = scene.choose(["missing", "empty"]) == "empty"
    is_ct = pydicom.dcmread(series[0]).Modality == "CT"

    def change(data: pydicom.Dataset) -> None:
        if tag not in data:
            return
        if not empty:
            delattr(data, tag)
        elif tag != "PixelData":
            data[tag].value = None
        else:
            data.PixelData = b""

    _edit(_some(scene, series), change)
    if tag in ("RescaleSlope", "RescaleIntercept") and is_ct:
        return {REFUSED}
    return {RIGHT, NAMED, REFUSED}


@mutation("dicom")
def tag_of_no_sense(scene: Scene) -> set[str]:
    series = scene.series()
    tag, value = scene.choose(
        [
            ("PixelSpacing", ["0.0007", "0.0007"]),
            ("PixelSpacing", ["700", "700"]),
            ("PixelSpacing", ["0", "0"]),
            ("PixelSpacing", ["-1", "-1"]),
            ("PixelSpacing", ["1"]),
            ("ImageOrientationPatient", ["0"] * 6),
            ("ImageOrientationPatient", ["2", "0", "0", "0", "2", "0"]),
            ("ImageOrientationPatient", ["1", "0", "0", "0.3", "0.95", "0"]),
            ("ImagePositionPatient", ["0", "0", "0"]),
            ("RescaleSlope", "0"),
            ("BitsStored", 0),
            ("BitsStored", 40),
            ("HighBit", 3),
            ("SamplesPerPixel", 3),
            ("PhotometricInterpretation", "PALETTE COLOR"),
            ("PhotometricInterpretation", "RGB"),
            ("NumberOfFrames", "5"),
            ("Rows", 7),
            ("Columns", 1000),
            ("SOPClassUID", uid.EnhancedCTImageStorage),
        ]
    )
    _edit(series, lambda data: setattr(data, tag, value))
    return {REFUSED}


@mutation("dicom")
def harmless_tag(scene: Scene) -> set[str]:
    tag, value = scene.choose(
        [
            ("PhotometricInterpretation", "MONOCHROME1"),
            ("NumberOfFrames", "1"),
            ("SliceThickness", "99"),
            ("SpacingBetweenSlices", "99"),
            ("SliceLocation", "1"),
            ("WindowCenter", "40"),
            ("PatientPosition", "FFS"),
            ("GantryDetectorTilt", "0"),
            ("PixelAspectRatio", ["1", "1"]),
        ]
    )
    _edit(scene.series(), lambda data: setattr(data, tag, value))
    return {RIGHT}


def _twelve_bits(data: pydicom.Dataset, offset: int) -> np.ndarray:
    """Stored values moved into 12 bits, with the tags that say so."""
    stored = data.pixel_array.astype(np.int32) + offset
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
    data.RescaleSlope, data.RescaleIntercept = f"{slope:g}", f"{intercept - slope * offset:g}"
    assert stored.min() >= 0 and stored.max() < 4096, (stored.min(), stored.max())
    return stored.astype(np.uint16)


@mutation("dicom")
def unused_bits(scene: Scene) -> set[str]:
    way = scene.choose(["overlay", "high bit", "padding", "all bits"])
    syntax = scene.choose(["plain", "RLE", "JPEG"])
    seed = int(scene.rng.integers(2**31))

    def change(data: pydicom.Dataset) -> None:
        rng = np.random.default_rng(seed)
        stored = _twelve_bits(data, 100)
        extra = rng.integers(0, 2, stored.shape, np.uint16)
        if way == "overlay":
            stored |= extra << 12
        elif way == "all bits":
            stored |= rng.integers(0, 16, stored.shape, np.uint16) << 12
        elif way == "high bit":
            data.HighBit = 14
            stored = stored << 3 | extra
        else:
            data.add_new("PixelPaddingValue", "US", 63536)
        data.PixelData = stored.tobytes()
        if syntax == "RLE":
            data.compress(uid.RLELossless, generate_instance_uid=False)

    series = scene.series()
    _edit(series, change)
    if syntax == "JPEG":
        for path in series:
            _to_jpeg(path)
    return {RIGHT}


def _to_jpeg(path: Path) -> None:
    """Compress losslessly what is stored, unused bits included, as GDCM does of 16 bits."""
    data = pydicom.dcmread(path)
    stored = np.frombuffer(data.PixelData, np.uint16).reshape(1, data.Rows, data.Columns)
    image = sitk.GetImageFromArray(stored)
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG")
        writer.SetFileName(str(Path(folder, "x.dcm")))
        writer.Execute(image)
        compressed = pydicom.dcmread(Path(folder, "x.dcm"))
    data.PixelData = compressed.PixelData
    data["PixelData"].is_undefined_length = True
    data["PixelData"].VR = "OB"
    data.file_meta.TransferSyntaxUID = compressed.file_meta.TransferSyntaxUID
    data.save_as(path)


@mutation("dicom")
def transfer_syntax(scene: Scene) -> set[str]:
    way = scene.choose(
        ["implicit", "big-endian", "deflated", "RLE", "none", "none implicit", "no preamble", "RLE none"]
    )
    for path in scene.series():
        data = pydicom.dcmread(path)
        if way in ("implicit", "none implicit"):
            data.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
        elif way == "big-endian":
            data.PixelData = data.pixel_array.astype(">i2").tobytes()
            data.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        elif way == "deflated":
            data.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        elif way.startswith("RLE"):
            data.compress(uid.RLELossless, generate_instance_uid=False)
        implicit, little = way in ("implicit", "none implicit"), way != "big-endian"
        if way == "big-endian":
            data = _in_big_endian(data)
        if "none" in way:
            del data.file_meta.TransferSyntaxUID
        if way == "no preamble":
            data.preamble = None
            data.file_meta = pydicom.dataset.FileMetaDataset()
            implicit = True
        buffer = io.BytesIO()
        if way in ("none", "none implicit", "RLE none", "no preamble"):
            pydicom.dcmwrite(buffer, data, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        else:
            data.save_as(buffer)
        path.write_bytes(buffer.getvalue())
    return {REFUSED} if way == "RLE none" else {RIGHT}


def _in_big_endian(data: pydicom.Dataset) -> pydicom.Dataset:
    list(data.iterall())  # decodes what was read, else the bytes would stay as they are
    data.set_original_encoding(False, False)
    return data


@mutation("dicom")
def other_files_in_the_series(scene: Scene) -> set[str]:
    series = scene.series()
    way = scene.choose(["._", "DICOMDIR", "text", "report", "empty file", "folder"])
    folder = series[0].parent
    if way == "._":
        (folder / f"._{series[0].name}").write_bytes(b"\0\5\x16\7" * 10)
    elif way == "DICOMDIR":
        shutil.copy(series[0], folder / "DICOMDIR")
    elif way == "text":
        (folder / "read me.txt").write_text("x")
    elif way == "folder":
        (folder / "x.dcm").mkdir()
    elif way == "empty file":
        (folder / "x.dcm").touch()
    else:
        data = pydicom.dcmread(series[0])
        for tag in ("PixelData", "ImagePositionPatient", "Rows", "Columns"):
            delattr(data, tag)
        data.SOPClassUID = uid.BasicTextSRStorage
        data.save_as(folder / "z.dcm")
    return {REFUSED, RIGHT} if way in ("empty file", "report") else {RIGHT}


@mutation("dicom")
def one_file_of_many_frames(scene: Scene) -> set[str]:
    series = scene.series()
    data = pydicom.dcmread(series[0])
    data.SOPClassUID = uid.EnhancedCTImageStorage
    data.NumberOfFrames = len(series)
    data.PixelData = b"".join(pydicom.dcmread(path).PixelData for path in series)
    for path in series:
        path.unlink()
    data.save_as(series[0])
    return {REFUSED}


MASK_WAYS = (
    "palette",
    "permuted palette",
    "coloured palette",
    "4 bits",
    "LA",
    "RGB",
    "RGBA",
    "RGBA transparent",
    "16 bits",
    "16 bits scaled",
    "16-bit RGB",
    "interlaced",
    "red",
    "blue",
    "inverted",
    "JPEG",
    "black",
    "indices",
    "gamma",
)


@mutation("png")
def mask_mode(scene: Scene) -> set[str]:
    grounds = sorted({path.parent for path in scene.files(".png")})
    masks = sorted(scene.choose_silently(grounds).glob("*.png"))
    way = scene.choose(MASK_WAYS)
    order = scene.rng.permutation(256).astype(np.uint8)
    is_ct = Image.open(masks[0]).mode == "1"
    for path in masks:
        grey = np.asarray(Image.open(path).convert("L"))
        _write_mask(path, grey, way, order)
    if way in ("red", "blue", "coloured palette"):
        return {RIGHT, REFUSED} if is_ct else {REFUSED}
    if way in ("inverted", "JPEG", "black", "16-bit RGB", "RGBA transparent"):
        return {REFUSED}
    if way == "indices":
        return {RIGHT} if is_ct else {REFUSED}
    return {RIGHT}


def _write_mask(path: Path, grey: np.ndarray, way: str, order: np.ndarray) -> None:
    plain, greys = Image.fromarray(grey), np.arange(256, dtype=np.uint8)
    none, gamma = np.zeros_like(grey), PngInfo()
    gamma.add(b"gAMA", struct.pack(">I", 45455))
    write: dict[str, Callable[[], object]] = {
        "palette": lambda: _with_palette(grey, greys, greys).save(path),
        "permuted palette": lambda: _with_palette(grey, order, greys).save(path),
        "coloured palette": lambda: _with_palette(grey, greys, 255 - greys).save(path),
        "4 bits": lambda: _with_palette(np.rint(grey / 17).astype(np.uint8), greys[:16], greys[:16] * 17).save(
            path, bits=4
        ),
        "LA": lambda: plain.convert("LA").save(path),
        "RGB": lambda: plain.convert("RGB").save(path),
        "RGBA": lambda: plain.convert("RGBA").save(path),
        "RGBA transparent": lambda: Image.fromarray(np.dstack([grey, grey, grey, none])).save(path),
        "16 bits": lambda: Image.fromarray(grey.astype(np.uint16)).save(path),
        "16 bits scaled": lambda: Image.fromarray(grey.astype(np.uint16) * 257).save(path),
        "16-bit RGB": lambda: _png(path, np.repeat(grey.astype(">u2")[..., None], 3, -1), 16, 2),
        "interlaced": lambda: _png(path, grey, 8, 0, interlace=1),
        "red": lambda: Image.fromarray(np.dstack([grey, none, none])).save(path),
        "blue": lambda: Image.fromarray(np.dstack([none, none, grey])).save(path),
        "inverted": lambda: Image.fromarray(255 - grey).save(path),
        "JPEG": lambda: plain.save(path, "JPEG"),
        "black": lambda: Image.fromarray(none).save(path),
        "indices": lambda: Image.fromarray(np.searchsorted(np.unique(grey), grey).astype(np.uint8)).save(path),
        "gamma": lambda: plain.save(path, pnginfo=gamma),
    }
    write[way]()


def _with_palette(grey: np.ndarray, place: np.ndarray, red: np.ndarray) -> Image.Image:
    """An image of the indices ``place[grey]``; the palette has the grey itself there, with another red or the same."""
    image = Image.fromarray(place[grey], "P")
    palette = np.zeros((256, 3), np.uint8)
    palette[place] = np.arange(len(place), dtype=np.uint8)[:, None] * (17 if len(place) == 16 else 1)
    palette[place, 0] = red
    image.putpalette(palette[: len(place)].ravel().tolist())
    return image


def _png(path: Path, array: np.ndarray, bits: int, colour_type: int, interlace: int = 0) -> None:
    """A PNG file by hand, for what Pillow does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    passes = [array]
    if interlace:
        starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [array[y::dy, x::dx] for y, x, dy, dx in starts]
    rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
    header = struct.pack(">2I5B", array.shape[1], array.shape[0], bits, colour_type, 0, 0, interlace)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
