"""The abdomen as CHAOS: DICOM slices and PNG masks for CT, MR T1-DUAL and MR T2-SPIR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image

from nnunet_ext.phantom.anatomy import DEFAULT_SHAPE
from nnunet_ext.phantom.contrast import CT, MR_T1_IN_PHASE, MR_T1_OPPOSED_PHASE, MR_T2_SPIR
from nnunet_ext.phantom.dicom import write_series
from nnunet_ext.phantom.layout import Layout, Truth, patients, truth_of

_MR_ORGANS = ("liver", "right_kidney", "left_kidney", "spleen")
#: Grey values of the MR masks since 2020, and in the release of 2019.
GREY_VALUES = MappingProxyType({1: 63, 2: 126, 3: 189, 4: 252})
OLD_GREY_VALUES = MappingProxyType({1: 80, 2: 160, 3: 240, 4: 255})
#: Echo times of the channels; of T1-DUAL in phase and opposed.
ECHO_MS = MappingProxyType({"T1DUAL": (4.6, 2.3), "T2SPIR": (70.0,)})


def write_chaos(
    folder: Path,
    part: str,
    *,
    numbers: Sequence[int] | None = None,
    test_numbers: Sequence[int] | None = None,
    nested: bool = False,
    batches: bool = False,
    grey_values: Mapping[int, int] = GREY_VALUES,
    feet_first: bool | None = None,
    img_names: bool = False,
    swap_phases: bool = False,
    echo_times: bool = True,
    flip_labels: str = "",
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    seed: int = 0,
) -> Layout:
    """Write one part of CHAOS below ``folder``; several parts can share it.

    Every slice has a SeriesInstanceUID of its own, and mask files belong to slices by the order of names alone.

    Args:
        folder: what a user would point the converter at.
        part: ``CT``, ``T1DUAL`` or ``T2SPIR``.
        numbers: labelled patients; None is a handful of the real ones.
        test_numbers: patients without masks; None is two of the real ones.
        nested: put CHAOS_Train_Sets around Train_Sets, as some zips unpack.
        batches: the folders of the release of 2019: one batch folder, both phases of T1-DUAL in one folder.
        grey_values: of the MR masks, by label.
        feet_first: order of the file names; None is the real one, head first for CT and feet first for MR.
        img_names: CT files named ``IMG-0023-00001.dcm``, as for some patients.
        swap_phases: exchange the contents of InPhase and OutPhase.
        echo_times: write EchoTime.
        flip_labels: axes among ``zyx`` along which all masks are flipped, which is wrong.
        shape: voxels ``(z, y, x)`` of the first patient; others have some slices more.
        seed: draws the patients.
    """
    is_ct = part == "CT"
    if numbers is None:
        numbers = (1, 2, 5, 6, 8) if is_ct else (1, 2, 3, 5, 8)
    if test_numbers is None:
        test_numbers = (3, 4) if is_ct else (4, 6)
    feet_first = not is_ct if feet_first is None else feet_first
    modality = "CT" if is_ct else "MR"
    organs = ("liver",) if is_ct else _MR_ORGANS
    contrasts = {"CT": (CT,), "T1DUAL": (MR_T1_IN_PHASE, MR_T1_OPPOSED_PHASE), "T2SPIR": (MR_T2_SPIR,)}[part]
    truths: dict[bool, dict[str, Truth]] = {True: {}, False: {}}
    for labelled, group in ((True, numbers), (False, test_numbers)):
        name = "Train_Sets" if labelled else "Test_Sets"
        root = folder / f"CHAOS_{name}" / name if nested else folder / name
        root = folder / f"{modality}_data_batch{1 if labelled else 2}" if batches else root / modality
        for number, phantom in patients(group, shape, seed + (0 if labelled else 1)):
            truth = truth_of(phantom, organs, contrasts)
            place = root / str(number) / ("" if is_ct else part)
            slices = len(truth.label)
            ranks = range(slices) if feet_first else range(slices - 1, -1, -1)
            *names, mask_names = _slice_names(part, ranks, img_names)
            in_folders = len(names) == 2 and not batches
            for channel, stems in enumerate(names):
                content = 1 - channel if swap_phases else channel
                write_series(
                    place / "DICOM_anon" / (("InPhase", "OutPhase")[channel] if in_folders else ""),
                    truth.channels[content],
                    truth,
                    lambda k, stems=stems: f"{stems[k]}.dcm",  # type: ignore[misc]
                    patient=f"CHAOS^{modality}_SET_{number}",
                    numbers=lambda k, ranks=ranks: ranks[k] + 1,  # type: ignore[misc]
                    modality=modality,
                    echo_time=ECHO_MS[part][content] if echo_times and not is_ct else None,
                    one_series=False,
                )
            if labelled:
                label = truth.label
                for axis in flip_labels:
                    label = np.flip(label, "zyx".index(axis))
                _write_masks(place / "Ground", label, mask_names, None if is_ct else grey_values)
            truths[labelled][f"{'chaosct' if is_ct else 'chaosmr'}_{number:03d}"] = truth
    return Layout(folder, truths[True], truths[False])


def _slice_names(part: str, ranks: Sequence[int], img_names: bool) -> list[list[str]]:
    """File names without suffix of the slices of each channel, and last of the masks, for slices ranked by name."""
    if part == "CT":
        slices = [f"IMG-0023-{rank + 1:05d}" if img_names else f"i{rank:04d},0000b" for rank in ranks]
        return [slices, [f"liver_GT_{rank:03d}" for rank in ranks]]
    if part == "T2SPIR":
        slices = [f"IMG-0002-{rank + 1:05d}" for rank in ranks]
        return [slices, slices]
    # one numbering runs through both phases: even numbers are in phase, and masks have theirs
    in_phase = [f"IMG-0004-{2 * rank + 2:05d}" for rank in ranks]
    return [in_phase, [f"IMG-0004-{2 * rank + 1:05d}" for rank in ranks], in_phase]


def _write_masks(ground: Path, label: np.ndarray, names: Sequence[str], grey_values: Mapping[int, int] | None) -> None:
    """Write masks as 1-bit images for CT (no grey values given), else as 8-bit ones."""
    ground.mkdir(parents=True, exist_ok=True)
    for plane, name in zip(label, names, strict=True):
        if grey_values is None:
            Image.fromarray(plane > 0).save(ground / f"{name}.png")
        else:
            table = np.zeros(256, np.uint8)
            for value, grey in grey_values.items():
                table[value] = grey
            Image.fromarray(table[plane]).save(ground / f"{name}.png")
