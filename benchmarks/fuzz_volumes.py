# ruff: noqa: D103 - a mutation is described by its name
"""Mutations of NIfTI and MetaImage files."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from fuzz_scene import NAMED, REFUSED, RIGHT, Scene, is_label, mutation

_NAN, _INF = float("nan"), float("inf")


def _patch(path: Path, *changes: tuple[int, str, tuple[Any, ...]]) -> None:
    """Overwrite fields of a NIfTI header."""
    content = bytearray(_unpacked(path))
    for offset, form, values in changes:
        struct.pack_into(form, content, offset, *values)
    _pack(path, bytes(content))


def _unpacked(path: Path) -> bytes:
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.endswith(".gz") else content


def _pack(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


_CODES, _UNITS, _PIXDIM, _QUATERN, _SROW, _SLOPE = 252, 123, 80, 256, 280, 112


def _drop(scene: Scene, path: Path, which: str) -> None:
    """Set one of the orientation codes to 0."""
    if which != "neither":
        _patch(path, (_CODES + (0 if which == "qform" else 2), "<h", (0,)))


def _both_forms(path: Path) -> None:
    image = nib.load(path)
    image.set_sform(image.affine, 1)
    image.set_qform(image.affine, 1)
    content = nib.Nifti1Image(np.array(image.dataobj), image.affine, image.header)
    nib.save(content, path)


def _prepared(scene: Scene) -> Path:
    path = scene.choose_silently(scene.images())
    _both_forms(path)
    return path


@mutation("nifti")
def voxel_sizes_disagree(scene: Scene) -> set[str]:
    path = _prepared(scene)
    sform = nib.load(path).affine[:3].copy()
    sform[:, scene.choose([0, 1, 2])] *= scene.choose([0.5, 1.01, 1.5, 10.0])
    _patch(path, (_SROW, "<12f", tuple(sform.ravel())))
    _drop(scene, path, scene.choose(["qform", "neither"]))
    return {REFUSED}


@mutation("nifti")
def places_disagree(scene: Scene) -> set[str]:
    path = _prepared(scene)
    axis = scene.choose([0, 1, 2])
    _patch(path, (_SROW + 16 * axis + 12, "<f", (scene.choose([0.5, 30.0, -500.0]),)))
    return {RIGHT, NAMED}


@mutation("nifti")
def sheared(scene: Scene) -> set[str]:
    path = _prepared(scene)
    sform = nib.load(path).affine[:3].copy()
    sform[0, 1] = sform[1, 1] * scene.choose([0.01, 0.02, 0.2, 3.0])
    _patch(path, (_SROW, "<12f", tuple(sform.ravel())))
    _drop(scene, path, scene.choose(["qform", "neither"]))
    return {RIGHT, NAMED, REFUSED}


@mutation("nifti")
def mirrored_in_one_form(scene: Scene) -> set[str]:
    path = _prepared(scene)
    sform = nib.load(path).affine[:3].copy()
    sform[:, scene.choose([0, 1, 2])] *= -1
    _patch(path, (_SROW, "<12f", tuple(sform.ravel())))
    return {RIGHT, NAMED}


@mutation("nifti")
def matrix_of_no_numbers(scene: Scene) -> set[str]:
    path = _prepared(scene)
    offset = _SROW + 4 * int(scene.rng.integers(12)) if scene.choose(["sform", "qform"]) == "sform" else _QUATERN
    offset += 0 if offset >= _SROW else 4 * int(scene.rng.integers(6))
    _patch(path, (offset, "<f", (scene.choose([_NAN, _INF, -_INF]),)))
    _drop(scene, path, scene.choose(["qform", "sform", "neither"]))
    return {RIGHT, NAMED, REFUSED}


@mutation("nifti")
def matrix_of_zeros(scene: Scene) -> set[str]:
    path = _prepared(scene)
    rows = scene.choose([(0,), (1,), (2,), (0, 1, 2)])
    _patch(path, *((_SROW + 16 * row, "<4f", (0, 0, 0, 0)) for row in rows))
    _drop(scene, path, scene.choose(["qform", "neither"]))
    return {RIGHT, NAMED, REFUSED}


@mutation("nifti")
def voxel_size_of_no_number(scene: Scene) -> set[str]:
    path = _prepared(scene)
    _patch(path, (_PIXDIM + 4 * scene.choose([0, 1, 2]), "<f", (scene.choose([0.0, _NAN, _INF, -3.0, 1e-9, 1e9]),)))
    _drop(scene, path, scene.choose(["qform", "sform", "neither"]))
    return {RIGHT, NAMED, REFUSED}


@mutation("nifti")
def units(scene: Scene) -> set[str]:
    path = _prepared(scene)
    code = scene.choose([0, 1, 2, 3, 5, 10, 11, 3 + 8, 7])
    _patch(path, (_UNITS, "<B", (code,)))
    return {REFUSED} if code & 7 in (1, 3) else {RIGHT}


@mutation("nifti")
def written_in_another_unit(scene: Scene) -> set[str]:
    path = _prepared(scene)
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3] *= scene.choose([1e-3, 1e3, 1e-6])
    new = nib.Nifti1Image(np.array(image.dataobj), affine)
    new.set_qform(affine, 1)
    nib.save(new, path)
    return {REFUSED}


@mutation("nifti")
def no_orientation(scene: Scene) -> set[str]:
    path = _prepared(scene)
    _patch(path, (_CODES, "<2h", scene.choose([(0, 0), (-1, -1), (0, -3)])))
    return {RIGHT, NAMED}


@mutation("nifti")
def scaling_of_no_number(scene: Scene) -> set[str]:
    path = _prepared(scene)
    # NIfTI: a slope of 0 means that nothing is scaled
    slope = scene.choose([0.0, _NAN, 1.0, _INF])
    intercept = scene.choose([0.0, 0.0, 5.0, _NAN, _INF])
    _patch(path, (_SLOPE, "<2f", (slope, intercept)))
    return {RIGHT, REFUSED} if (slope, intercept) != (1.0, 5.0) else {"changed"}


@mutation("nifti")
def scaled_exactly(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.images())
    image = nib.load(path)
    values = np.array(image.dataobj).astype(np.int16)
    header = image.header.copy()
    header.set_data_dtype(np.int16)
    new = nib.Nifti1Image((values + 1024).astype(np.int16), image.affine, header)
    nib.save(new, path)
    _patch(path, (_SLOPE, "<2f", (1.0, -1024.0)))
    return {RIGHT}


@mutation("nifti")
def number_type(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.files(".nii", ".nii.gz"))
    image = nib.load(path)
    values = np.array(image.dataobj)
    kinds = ["f4", "f8", "i4", "i8", "c8", "c16", "rgb", "rgba"] + (["u1", "i1", "u2", "u4", "u8"] * is_label(path))
    kind = scene.choose(kinds)
    if kind.startswith("rgb"):
        new = np.zeros(values.shape, [(c, "u1") for c in "RGBA"[: len(kind)]])
        for channel in new.dtype.names:
            new[channel] = values.astype(np.uint8)
    else:
        new = values.astype(kind)
    affine = image.affine
    written = nib.Nifti1Image(new, affine, dtype=new.dtype)
    written.set_qform(affine, 1)
    nib.save(written, path)
    unused = "imagesTs" in path.parts and any(part.startswith("Dataset") for part in path.parts)  # by a union
    return {RIGHT} if unused or kind[0] not in "cr" else {REFUSED}


@mutation("nifti")
def stored_otherwise(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.files(".nii", ".nii.gz"))
    image = nib.load(path)
    values, affine = np.array(image.dataobj), image.affine
    way = scene.choose(["big-endian", "NIfTI-2", "4D", "5D", "extension", "members", "padding", "upper case"])
    if way == "big-endian":
        new = nib.Nifti1Image(values, affine, image.header.as_byteswapped(">"))
        nib.save(new, path)
    elif way == "NIfTI-2":
        nib.save(nib.Nifti2Image(values, affine), path)
    elif way in ("4D", "5D"):
        new = nib.Nifti1Image(values[..., None] if way == "4D" else values[..., None, None], affine)
        new.set_qform(affine, 1)
        nib.save(new, path)
    elif way == "extension":
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 1000))
        nib.save(nib.Nifti1Image(values, affine, image.header), path)
    elif way == "members" and path.name.endswith(".gz"):
        content = _unpacked(path)
        path.write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    elif way == "padding":
        _pack(path, _unpacked(path) + b"\0" * 1000)
    elif way == "upper case":
        path.rename(path.with_name(path.name.replace(".nii", ".NII").replace(".gz", ".GZ")))
    in_a_raw_dataset = any(part.startswith("Dataset") for part in path.parts)  # where nnU-Net asks for one ending
    return {RIGHT, REFUSED} if way == "5D" or (way == "upper case" and in_a_raw_dataset) else {RIGHT}


@mutation("nifti")
def intensities(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.images())
    image = nib.load(path)
    values = np.array(image.dataobj).astype(np.float32)
    way = scene.choose(["+1000", "+1024", "0 to 1", "windowed", "NaN", "infinite", "0 to 255"])
    if way.startswith("+"):
        values += float(way)
    elif way in ("0 to 1", "0 to 255"):
        values = np.interp(values, (-1000, 1000), (0, float(way.split()[-1])))
    elif way == "windowed":
        values = values.clip(-160, 240)
    else:
        values.flat[scene.rng.integers(values.size)] = _NAN if way == "NaN" else _INF
    nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)
    return {REFUSED}


@mutation("nifti label")
def label_values(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.labels())
    image = nib.load(path)
    values = np.array(image.dataobj).astype(np.float32)
    way = scene.choose(["none", "+1", "half", "-1", "NaN", "rounding", "x 255", "unknown"])
    voxel = int(scene.rng.integers(values.size))
    if way == "none":
        values[:] = 0
    elif way == "+1":
        values = values + 1
    elif way == "x 255":
        values = values * 255
    elif way == "rounding":
        values = values * np.float32(1.00001)
    else:
        values.flat[voxel] = {"half": 0.5, "-1": -1, "NaN": _NAN, "unknown": 99}[way]
    nib.save(nib.Nifti1Image(values.astype(np.float32), image.affine), path)
    return {RIGHT} if way == "rounding" else {REFUSED}


@mutation("nifti label")
def label_header(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.labels())
    way = scene.choose(["nan", "zero", "codes", "pixdim", "units", "origin", "sizes"])
    changes = {
        "nan": (_SROW, "<f", (_NAN,)),
        "zero": (_SROW, "<12f", (0,) * 12),
        "codes": (_CODES, "<2h", (0, 0)),
        "pixdim": (_PIXDIM, "<f", (0.0,)),
        "units": (_UNITS, "<B", (3,)),
        "origin": (_SROW + 12, "<f", (777.0,)),
        "sizes": (_PIXDIM, "<3f", (1.0, 1.0, 5.0)),
    }
    _patch(path, changes[way])
    return {RIGHT}  # the image's grid counts


@mutation("mhd")
def metaimage_header(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.files(".mhd"))
    lines = dict(line.split(" = ", 1) for line in path.read_text().splitlines())
    is_label = "seg" in path.name
    key, value, outcome = scene.choose(
        [
            ("ElementSpacing", "nan 1 1", REFUSED),
            ("ElementSpacing", "0 1 1", REFUSED),
            ("ElementSpacing", "-1 1 1", REFUSED),
            ("ElementSpacing", "0.0007 0.0007 0.001", REFUSED),
            ("ElementSpacing", "700 700 1000", REFUSED),
            ("ElementSpacing", "", REFUSED),
            ("Offset", "nan 0 0", REFUSED),
            ("TransformMatrix", "1 0 0 0 1 0 0 0 0", REFUSED),
            ("TransformMatrix", "1 0.3 0 0 1 0 0 0 1", NAMED),
            ("TransformMatrix", "nan 0 0 0 1 0 0 0 1", REFUSED),
            ("TransformMatrix", "2 0 0 0 1 0 0 0 1", NAMED),
            ("ElementNumberOfChannels", "3", REFUSED),
            ("ElementType", "MET_DOUBLE", REFUSED),
            ("ElementType", "MET_UCHAR_ARRAY", REFUSED),
            ("ElementDataFile", "gone.raw", REFUSED),
            ("ElementDataFile", "LIST", REFUSED),
            ("ElementDataFile", "LOCAL", REFUSED),
            ("ElementDataFile", "", REFUSED),
            ("ElementDataFile", "..", REFUSED),
            ("DimSize", "-24 20 8", REFUSED),
            ("DimSize", "24 20", REFUSED),
            ("DimSize", "0 0 0", REFUSED),
            ("NDims", "2", REFUSED),
            ("HeaderSize", "-1", RIGHT),
            ("HeaderSize", "100", REFUSED),
            ("CompressedData", "True", REFUSED),
            ("Comment", "a note", RIGHT),
        ]
    )
    lines[key] = value
    data_file = lines.pop("ElementDataFile")  # which has to be the last
    lines["ElementDataFile"] = data_file
    path.write_text("\n".join(f"{k} = {v}" for k, v in lines.items()) + "\n")
    return {RIGHT, NAMED, REFUSED} if is_label or outcome == NAMED else {outcome, REFUSED}


@mutation("mhd")
def metaimage_variants(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.files(".mhd"))
    image = sitk.ReadImage(str(path))
    way = scene.choose(["compressed", "float", "255", "-1", "big-endian", "colour"])
    if way == "compressed":
        sitk.WriteImage(image, str(path), True)
    elif way == "float":
        sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), str(path))
    elif way in ("255", "-1") and "seg" in path.name:
        sitk.WriteImage(sitk.Cast(image * int(way), sitk.sitkUInt8 if way == "255" else sitk.sitkInt8), str(path))
    elif way == "big-endian":
        raw = path.with_suffix(".raw")
        kind = ">i2" if "orig" in path.name else "i1"
        raw.write_bytes(sitk.GetArrayFromImage(image).astype(kind).tobytes())
        for key in ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"):
            path.write_text(path.read_text().replace(f"{key} = False", f"{key} = True"))
    elif way == "colour":
        sitk.WriteImage(sitk.Compose([image] * 3), str(path))
        return {REFUSED}
    return {RIGHT}
