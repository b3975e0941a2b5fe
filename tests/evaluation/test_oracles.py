"""Against MedPy 0.5.2 and MONAI 1.6.1 (pip install -e .[oracles]), where the conventions are the same."""

import os
from pathlib import Path

import numpy as np
import pytest

from nnunet_ext.evaluation.case import evaluate_pair
from nnunet_ext.evaluation.conventions import PRESETS, Conventions, conventions_from
from nnunet_ext.evaluation.targets import LabelScheme, Target
from tests.evaluation.brute_force import KINDS, SHAPES, random_masks

SCHEME = LabelScheme((Target("a", "1", (1,)),), (0, 1))


def ours(ref, pred, spacing, conventions=None):
    return evaluate_pair(ref.view(np.uint8), pred.view(np.uint8), spacing, SCHEME, conventions)["a"].metrics


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
@pytest.mark.parametrize("neighbourhood", [6, 18, 26])
def test_medpy(kind, shape, spacing, neighbourhood):
    binary = pytest.importorskip("medpy.metric.binary", reason="MedPy is in the extra 'oracles'")
    ref, pred = random_masks(np.random.default_rng(11), shape, kind)
    found = ours(ref, pred, spacing, conventions_from("papers", border_neighbourhood=neighbourhood))
    step = min({6: 1, 18: 2, 26: 3}[neighbourhood], len(shape))
    expected = {
        "Dice": binary.dc(pred, ref),
        "IoU": binary.jc(pred, ref),
        "Precision": binary.precision(pred, ref),
        "Recall": binary.recall(pred, ref),
        "RVD": 100 * binary.ravd(pred, ref),
        "ASD": binary.asd(pred, ref, spacing, step),
        "ASSD": binary.assd(pred, ref, spacing, step),
        "HD": binary.hd(pred, ref, spacing, step),
        "HD95_pooled": binary.hd95(pred, ref, spacing, step),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    if kind != "full":  # MedPy divides by zero where the reference leaves no background
        assert found["Specificity"] == pytest.approx(binary.specificity(pred, ref), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_monai(kind, shape, spacing):
    pytest.importorskip("monai", reason="MONAI is in the extra 'oracles'")
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    ref, pred = random_masks(np.random.default_rng(12), shape, kind)
    found = ours(ref, pred, spacing, Conventions(nsd_tolerances_mm=(1.0,)))
    p, r = (torch.from_numpy(m[None, None].astype(np.uint8)) for m in (pred, ref))
    options = {"include_background": True, "spacing": [float(s) for s in spacing]}
    expected = {
        "HD": compute_hausdorff_distance(p, r, **options),
        "HD95": compute_hausdorff_distance(p, r, percentile=95, **options),
        "ASSD": compute_average_surface_distance(p, r, symmetric=True, **options),
        "ASD": compute_average_surface_distance(p, r, **options),
        "NSD_1mm": compute_surface_dice(p, r, class_thresholds=[1.0], **options),
    }
    # MONAI works in float32.
    assert {n: found[n] for n in expected} == pytest.approx(
        {n: float(v) for n, v in expected.items()}, rel=2e-6, abs=1e-6
    )


CHAOS_SAMPLE = os.environ.get("NNUNET_EXT_CHAOS_SAMPLE")


@pytest.mark.skipif(CHAOS_SAMPLE is None, reason="set NNUNET_EXT_CHAOS_SAMPLE to the sample case of CHAOS-evaluation")
def test_chaos_sample_case():
    """Needs reference.nii.gz and segmentation.nii.gz in that folder, of 2.0 x 0.7265625 x 0.7265625 mm."""
    import SimpleITK as sitk

    maps = []
    for name in ("reference", "segmentation"):
        image = sitk.ReadImage(str(Path(str(CHAOS_SAMPLE)) / f"{name}.nii.gz"))
        maps.append((sitk.GetArrayFromImage(image) > 0).view(np.uint8))
    found = evaluate_pair(*maps, image.GetSpacing()[::-1], SCHEME, PRESETS["chaos"])["a"].metrics
    assert found["Dice"] == pytest.approx(0.978434, abs=1e-6)
    assert found["RAVD"] == pytest.approx(0.664534, abs=1e-6)
    assert found["VOE"] == pytest.approx(4.2221, abs=1e-4)
    assert found["ASSD"] == pytest.approx(0.7341, abs=1e-4)
    assert found["MASD"] == pytest.approx(0.7324, abs=1e-4)
    assert found["RMSD"] == pytest.approx(1.5896, abs=1e-4)
    assert found["HD"] == pytest.approx(14.0, abs=1e-3)
    assert found["HD95_pooled"] == pytest.approx(2.577, abs=1e-3)
