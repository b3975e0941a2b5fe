"""Intensities: what a scanner would show of a :class:`~nnunet_ext.phantom.anatomy.Phantom`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from nnunet_ext.phantom.anatomy import TISSUES, Phantom


@dataclass(frozen=True)
class Contrast:
    """One kind of scan.

    Attributes:
        values: mean value of every tissue of :data:`~nnunet_ext.phantom.anatomy.TISSUES`.
        spread: standard deviation of a tissue's mean between patients.
        noise: standard deviation of the noise of one voxel.
        minimum: what the scanner cannot go below.
    """

    values: Mapping[str, float]
    spread: float
    noise: float
    minimum: float


#: CT in the portal venous phase, in Hounsfield units.
CT = Contrast(
    MappingProxyType(
        {
            "air": -1000,
            "fat": -95,
            "muscle": 55,
            "bone": 320,
            "lung": -820,
            "bowel": 20,
            "spleen": 122,
            "right_kidney": 175,
            "left_kidney": 175,
            "gallbladder": 8,
            "esophagus": 40,
            "liver": 108,
            "stomach": 30,
            "aorta": 155,
            "inferior_vena_cava": 135,
            "portal_and_splenic_vein": 165,
            "pancreas": 90,
            "right_adrenal_gland": 70,
            "left_adrenal_gland": 70,
            "liver_tumour": 55,
            "pancreas_tumour": 45,
        }
    ),
    spread=7,
    noise=12,
    minimum=-1024,
)

#: MR values in arbitrary units. In the opposed phase fat and water cancel, so mixed tissue is darker than in phase.
MR_T1_IN_PHASE = Contrast(
    MappingProxyType(
        {
            "air": 0,
            "fat": 900,
            "muscle": 330,
            "bone": 260,
            "lung": 40,
            "bowel": 300,
            "spleen": 330,
            "right_kidney": 370,
            "left_kidney": 370,
            "gallbladder": 180,
            "esophagus": 320,
            "liver": 520,
            "stomach": 240,
            "aorta": 190,
            "inferior_vena_cava": 210,
            "portal_and_splenic_vein": 220,
            "pancreas": 540,
            "right_adrenal_gland": 420,
            "left_adrenal_gland": 420,
            "liver_tumour": 360,
            "pancreas_tumour": 350,
        }
    ),
    spread=15,
    noise=14,
    minimum=0,
)
MR_T1_OPPOSED_PHASE = Contrast(
    MappingProxyType(
        {**MR_T1_IN_PHASE.values, "fat": 620, "bone": 150, "liver": 430, "pancreas": 430}
        | {"right_adrenal_gland": 280, "left_adrenal_gland": 280}
    ),
    spread=15,
    noise=14,
    minimum=0,
)
#: T2-weighted with fat suppressed (SPIR): fluid, spleen and kidneys bright, fat dark.
MR_T2_SPIR = Contrast(
    MappingProxyType(
        {
            "air": 0,
            "fat": 130,
            "muscle": 140,
            "bone": 200,
            "lung": 30,
            "bowel": 420,
            "spleen": 560,
            "right_kidney": 640,
            "left_kidney": 640,
            "gallbladder": 950,
            "esophagus": 230,
            "liver": 280,
            "stomach": 520,
            "aorta": 70,
            "inferior_vena_cava": 90,
            "portal_and_splenic_vein": 110,
            "pancreas": 360,
            "right_adrenal_gland": 300,
            "left_adrenal_gland": 300,
            "liver_tumour": 480,
            "pancreas_tumour": 450,
        }
    ),
    spread=15,
    noise=16,
    minimum=0,
)


def scan(phantom: Phantom, contrast: Contrast = CT) -> np.ndarray:
    """Image the phantom: tissue means that vary between patients, partial volume, correlated noise.

    Args:
        phantom: the patient.
        contrast: the kind of scan; two scans of one phantom show the same anatomy with independent noise.

    Returns:
        ``(z, y, x)`` int16, Hounsfield units for :data:`CT`.
    """
    # a fixed number per contrast: two scans differ in noise, and the same scan repeats to the voxel
    rng = np.random.default_rng([phantom.seed, 2, int(sum(contrast.values.values()) * 10) + 100_000])
    table = np.zeros(256, np.float32)
    for name, value in contrast.values.items():
        air = name in ("air", "lung")
        table[TISSUES[name]] = value if air else value + rng.normal(0, contrast.spread)
    image = ndimage.gaussian_filter(table[phantom.tissue], (0.25, 0.5, 0.5))
    white = rng.standard_normal(image.shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(white, (0, 0.6, 0.6))  # reconstructed CT and MR noise is not white
    image += noise * (contrast.noise / noise.std())
    return np.maximum(np.rint(image), contrast.minimum).astype(np.int16)
