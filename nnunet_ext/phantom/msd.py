"""The abdomen as a task of the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import SimpleITK as sitk

from nnunet_ext.phantom.anatomy import DEFAULT_SHAPE, make_phantom
from nnunet_ext.phantom.contrast import CT, Contrast
from nnunet_ext.phantom.layout import Layout, Triple, Truth, to_sitk, truth_of, write_apple_double, write_image

#: Large organs that a small network learns within minutes on a CPU.
DEMO_ORGANS = ("liver", "spleen", "stomach")


def write_msd(
    folder: Path,
    *,
    task: str = "Task90_PhantomAbdomen",
    cases: int = 10,
    test_cases: int = 2,
    organs: Sequence[str] = DEMO_ORGANS,
    modalities: Mapping[str, Contrast] | None = None,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    spacing: Triple | None = None,
    seed: int = 0,
    lesions: bool = False,
    apple_double: bool = False,
    hidden_labels: Path | None = None,
) -> Layout:
    """Write ``folder/task`` in the Decathlon's layout: imagesTr, labelsTr, imagesTs, dataset.json.

    Args:
        folder: where the task folder goes.
        task: ``Task<number>_<name>``.
        cases: labelled cases, numbered from 1.
        test_cases: cases without labels, numbered on from there.
        organs: structures that are labelled, numbered 1, 2, ... in this order.
        modalities: name and contrast of each channel; None is ``{"CT": CT}``. Several make 4D images.
        shape: voxels ``(z, y, x)``.
        spacing: voxel size in mm ``(z, y, x)``; None varies it between the cases.
        seed: draws the patients.
        lesions: add tumours in liver and pancreas.
        apple_double: add the ``._`` files that the official archives hold.
        hidden_labels: where the labels of the test cases go, as ``<case>.nii.gz``; None keeps them in memory only.

    Returns:
        The task folder and the truth of every case.
    """
    modalities = modalities or {"CT": CT}
    root = folder / task
    stem = task.partition("_")[2].lower()
    for subfolder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / subfolder).mkdir(parents=True, exist_ok=True)
    truths: dict[str, Truth] = {}
    for number in range(1, cases + test_cases + 1):
        phantom = make_phantom(seed * 100_003 + number, shape, spacing, lesions=lesions)
        truth = truth_of(phantom, organs, list(modalities.values()))
        name = f"{stem}_{number:03d}"
        image_path = root / ("imagesTr" if number <= cases else "imagesTs") / f"{name}.nii.gz"
        if len(truth.channels) == 1:
            write_image(image_path, truth.channels[0], phantom)
        else:
            channels = [to_sitk(channel, truth.spacing, truth.origin) for channel in truth.channels]
            sitk.WriteImage(sitk.JoinSeries(channels), str(image_path), True)
        if number <= cases:
            write_image(root / "labelsTr" / f"{name}.nii.gz", truth.label, phantom)
        elif hidden_labels is not None:
            write_image(hidden_labels / f"{name}.nii.gz", truth.label, phantom)
        if apple_double:
            write_apple_double(image_path)
        truths[name] = truth
    names = list(truths)
    description = {
        "name": task.partition("_")[2],
        "description": "Synthetic abdomen: no patient was scanned for it",
        "reference": "nnunet_ext.phantom",
        "licence": "Apache-2.0",
        "relase": "1.0",  # misspelt as in Task04 of the original
        "tensorImageSize": "3D" if len(modalities) == 1 else "4D",
        "modality": {str(i): name for i, name in enumerate(modalities)},
        "labels": {"0": "background"} | {str(i): organ for i, organ in enumerate(organs, start=1)},
        "numTraining": cases,
        "numTest": test_cases,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names[:cases]],
        "test": [f"./imagesTs/{n}.nii.gz" for n in names[cases:]],
    }
    (root / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    return Layout(root, {n: truths[n] for n in names[:cases]}, {n: truths[n] for n in names[cases:]})
