# ruff: noqa: D103 - a mutation is described by its name
"""Mutations of descriptions, names, links and folders."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from fuzz_scene import REFUSED, RIGHT, UNION, Scene, mutation


@mutation("json")
def label_table(scene: Scene) -> set[str]:
    table, outcome = scene.choose(
        [
            ({"0": "Background", "1": "liver", "2": "spleen", "3": "stomach"}, RIGHT),
            ({"0": " background ", "1": "liver", "2": "spleen", "3": "stomach"}, RIGHT),
            ({"0": "unlabelled", "1": "liver", "2": "spleen", "3": "stomach"}, RIGHT),
            ({"1": "liver", "2": "spleen", "3": "stomach"}, RIGHT),
            ({"background": 0, "liver": 1, "spleen": 2, "stomach": 3}, RIGHT),
            ({"background": "0", "liver": "1", "spleen": "2", "stomach": "3"}, RIGHT),
            ({"3": "stomach", "2": "spleen", "1": "liver", "0": "background"}, RIGHT),
            ({"0": "background", "1": "foreground", "2": "mean", "3": "case"}, RIGHT),
            ({"0": "background", "1": "Leber/Milz", "2": 'über, "x"', "3": "肝"}, RIGHT),
            ({"0": "background", "1": "liver", "2": "spleen", "3": "stomach", "4": "ignore"}, RIGHT),
            ({"0": "background", "1": "ignore", "2": "spleen", "3": "stomach"}, REFUSED),
            ({"0": "liver", "1": "background", "2": "spleen", "3": "stomach"}, REFUSED),
            ({"0": "liver", "1": "spleen", "2": "stomach"}, REFUSED),
            ({"0": "background", "1": "Background", "2": "spleen", "3": "stomach"}, REFUSED),
            ({"0": "background", "1": "liver", "2": "liver", "3": "stomach"}, REFUSED),
            ({"0": "background", "1": "liver", "3": "stomach"}, REFUSED),
            ({"0": "background", "1": "liver", "2": "spleen"}, REFUSED),
            ({"0": "background"}, REFUSED),
            ({"0": "background", "1": ""}, REFUSED),
            ({"0": "background", "1": None, "2": "spleen", "3": "stomach"}, REFUSED),
            ({"background": 0, "liver": 1.5, "spleen": 2, "stomach": 3}, REFUSED),
            ({"background": 0, "liver": [1, 2], "stomach": 3}, REFUSED),
            ({"background": 0, "liver": True, "spleen": 2, "stomach": 3}, REFUSED),
            ({"background": 0, "liver": -1, "spleen": 2, "stomach": 3}, REFUSED),
            ({}, REFUSED),
            ([], REFUSED),
            (["background", "liver", "spleen", "stomach"], REFUSED),
            ("liver", REFUSED),
            (None, REFUSED),
            (7, REFUSED),
        ]
    )
    _change_json(scene, labels=table)
    return {outcome}


def _change_json(scene: Scene, **changes: Any) -> None:
    path = scene.folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@mutation("json")
def channel_table(scene: Scene) -> set[str]:
    table, outcome = scene.choose(
        [
            ({"0": "CT"}, RIGHT),
            ({"0": " ct "}, RIGHT),
            ({"0": "CT", "1": "MR"}, REFUSED),
            ({}, REFUSED),
            ({"0": None}, REFUSED),
            ({"0": ""}, REFUSED),
            ({"0": ["CT"]}, REFUSED),
            (["CT"], REFUSED),
            ("CT", REFUSED),
            (None, REFUSED),
            ({"1": "CT"}, REFUSED),
        ]
    )
    _change_json(scene, modality=table)
    return {outcome}


@mutation("json")
def lists_of_cases(scene: Scene) -> set[str]:
    content = json.loads((scene.folder / "dataset.json").read_text())
    training, test = content["training"], content["test"]
    more = {"image": "./imagesTr/more.nii.gz", "label": "./labelsTr/more.nii.gz"}
    junk = {"image": "./imagesTr/._phantomabdomen_001.nii.gz", "label": "./labelsTr/._phantomabdomen_001.nii.gz"}
    changes, outcome = scene.choose(
        [
            ({"training": [*training, more]}, REFUSED),
            ({"test": [*test, "./imagesTs/more.nii.gz"]}, REFUSED),
            ({"training": [*training, junk]}, RIGHT),
            ({"training": training[1:]}, RIGHT),
            ({"training": []}, RIGHT),
            ({"training": None}, RIGHT),
            ({"training": None, "numTraining": 7}, REFUSED),
            ({"training": [{"label": "x"}]}, REFUSED),
            ({"training": [None]}, REFUSED),
            ({"training": "imagesTr"}, REFUSED),
            ({"training": {"a": 1}}, REFUSED),
            ({"training": [[]]}, REFUSED),
            ({"training": [t["image"] for t in training]}, RIGHT),
            ({"training": [{"image": t["image"].replace("/", "\\")} for t in training]}, RIGHT),
            ({"test": [{"image": name} for name in test]}, RIGHT),
            ({"test": [7]}, REFUSED),
            ({"numTraining": "three"}, RIGHT),
            ({"numTest": None}, RIGHT),
            ({"licence": None, "reference": 5}, RIGHT),
            ({"licence": {"a": ["b"]}}, RIGHT),
        ]
    )
    _change_json(scene, **changes)
    return {outcome}


@mutation("json")
def text_of_the_description(scene: Scene) -> set[str]:
    path = scene.folder / "dataset.json"
    text = path.read_text()
    way = scene.choose(
        ["BOM", "UTF-16", "duplicate", "array", "null", "deep", "trailing comma", "empty", "folder", "NaN"]
    )
    if way == "BOM":
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        return {RIGHT}
    if way == "NaN":
        path.write_text(text.replace('"relase"', '"release": NaN, "relase"'))
        return {RIGHT, REFUSED}
    path.unlink()
    if way == "folder":
        path.mkdir()
    else:
        path.write_bytes(
            {
                "UTF-16": text.encode("utf-16"),
                "duplicate": text.replace('"1": "liver"', '"1": "liver", "1": "kidney"').encode(),
                "array": b"[]",
                "null": b"null",
                "deep": b"[" * 100_000,
                "trailing comma": text.replace("}", ",}").encode(),
                "empty": b"",
            }[way]
        )
    return {REFUSED}


@mutation("json")
def case_in_another_format(scene: Scene) -> set[str]:
    name = scene.choose(["phantomabdomen_001", "phantomabdomen_003", "phantomabdomen_004"])
    ending = scene.choose([".nrrd", ".mha", ".mhd", ".hdr", ".nii.gz.part", ".npy"])
    for path in scene.files(f"{name}.nii.gz"):
        image = sitk.ReadImage(str(path))
        target = path.with_name(name + ending)
        if ending in (".nii.gz.part", ".npy"):
            target.write_bytes(path.read_bytes())
        else:
            sitk.WriteImage(image, str(target))
        path.unlink()
    return {REFUSED}


@mutation("anything")
def links(scene: Scene) -> set[str]:
    files = [p for p in scene.files("") if p.suffix in (".gz", ".nii", ".dcm", ".png", ".mhd", ".raw", ".json")]
    path = scene.choose_silently(files)
    way = scene.choose(["link", "dangling", "hard", "loop", "itself", "folder loop", "relative"])
    elsewhere = scene.folder.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    withdrawn = any(number in str(path) for number in ("PANCREAS_0025", "PANCREAS_0070", "label0025", "label0070"))
    lost = {RIGHT} if withdrawn else {REFUSED}  # nobody reads what its publishers withdrew
    if way in ("link", "dangling", "relative"):
        target = elsewhere / path.name
        path.rename(target)
        path.symlink_to(os.path.relpath(target, path.parent) if way == "relative" else target)
        if way == "dangling":
            target.unlink()
            return lost
    elif way == "hard":
        os.link(path, elsewhere / path.name)
    elif way == "loop":
        (path.parent / "up").symlink_to(scene.folder, target_is_directory=True)
        return {RIGHT, REFUSED}
    elif way == "folder loop":
        (path.parent / "here").symlink_to(path.parent, target_is_directory=True)
        return {RIGHT, REFUSED}
    else:
        path.unlink()
        path.symlink_to(path)
        return lost
    return {RIGHT}


@mutation("anything")
def names_of_folders(scene: Scene) -> set[str]:
    # The folder above the one that a converter is pointed at
    name = scene.choose(["a b", "a'b", 'a"b', "$HOME", "ä肝", "a\\b", "~", "#%&", "a\nb", "[x]", "-d", "test", "._a"])
    target = scene.folder.parent / name
    target.mkdir()
    scene.folder = scene.folder.rename(target / scene.folder.name)
    return {RIGHT}


@mutation("anything")
def apple_doubles(scene: Scene) -> set[str]:
    for path in [*scene.files(""), *(p for p in scene.folder.rglob("*") if p.is_dir())]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    return {RIGHT}


@mutation("anything")
def folder_in_place_of_a_file(scene: Scene) -> set[str]:
    endings = (".gz", ".nii", ".dcm", ".png", ".mhd", ".json")
    # of an unlabelled case that nothing promises nobody can know
    files = [
        p for p in scene.files(*endings) if "test" not in str(p).lower() and not re.search("img006|0025|0070", p.name)
    ]
    path = scene.choose_silently(files)
    path.unlink()
    path.mkdir()
    return {REFUSED}


@mutation("anything")
def quoted_raw_folder(scene: Scene) -> set[str]:
    way = scene.choose(['"{}"', "'{}'", "~/{}", "{} ", ' "{}"', '{}"'])
    os.environ["nnUNet_raw"] = way.format(os.environ["nnUNet_raw"])
    return {REFUSED}


@mutation("anything")
def raw_folder_that_is_none(scene: Scene) -> set[str]:
    path = Path(os.environ["nnUNet_raw"])
    way = scene.choose(["unset", "a file", "below a file"])
    if way == "unset":
        os.environ["nnUNet_raw"] = ""
    else:
        file = path.with_name("file")
        file.touch()
        os.environ["nnUNet_raw"] = str(file if way == "a file" else file / "raw")
    return {REFUSED}


@mutation("anything")
def no_room(scene: Scene) -> set[str]:
    limit = scene.choose([0, 100, 1500])
    os.environ["FUZZ_FILE_SIZE"] = str(limit)
    return {RIGHT, REFUSED}


@mutation(UNION)
def description_of_a_raw_dataset(scene: Scene) -> set[str]:
    path = scene.choose_silently(scene.files("dataset.json"))
    content = json.loads(path.read_text())
    labels = content["labels"]
    key, value, outcome = scene.choose(
        [
            ("labels", None, REFUSED),
            ("labels", {}, REFUSED),
            ("labels", {k: float(v) for k, v in labels.items()}, REFUSED),
            ("labels", {k: str(v) for k, v in labels.items()}, REFUSED),
            ("labels", {k: [v] for k, v in labels.items()}, REFUSED),
            ("labels", {k.title(): v for k, v in labels.items()}, REFUSED),
            ("labels", {k: v + 1 for k, v in labels.items()}, REFUSED),
            ("labels", {"background": 0, "liver": True}, REFUSED),
            ("labels", list(labels), REFUSED),
            ("channel_names", {}, REFUSED),
            ("channel_names", None, REFUSED),
            ("channel_names", {"0": "MR"}, REFUSED),
            ("channel_names", {"0": "CT", "1": "CT"}, REFUSED),
            ("file_ending", ".nrrd", REFUSED),
            ("file_ending", None, REFUSED),
            ("file_ending", ".nii", REFUSED),
            ("dataset", {"x": {"images": ["imagesTr/gone.nii.gz"], "label": "labelsTr/gone.nii.gz"}}, REFUSED),
            ("dataset", {"x": {}}, REFUSED),
            ("dataset", {"x": None}, REFUSED),
            ("dataset", [], REFUSED),
            ("dataset", {"x": {"images": "imagesTr/a.nii.gz", "label": 5}}, REFUSED),
            ("dataset", {}, REFUSED),
            ("numTraining", 77, RIGHT),
            ("licence", None, RIGHT),
        ]
    )
    content[key] = value
    path.write_text(json.dumps(content))
    return {outcome, REFUSED}


@mutation(UNION)
def raw_folds(scene: Scene) -> set[str]:
    (folder,) = scene.folder.glob("Dataset507*")
    content = scene.choose([None, [], {}, [{}], [{"train": []}], [{"train": ["x"], "val": ["y"]}], [7], "x"])
    (folder / "splits_final.json").write_text(json.dumps(content))
    return {RIGHT, REFUSED}
