"""Voxel grids that no scanned body has."""

import pytest

from dataset_conversion.plausible import ABDOMEN_MM, implausible


@pytest.mark.parametrize(
    ("size", "spacing", "limits", "said"),
    [
        ((512, 512, 100), (0.7, 0.7, 5), ABDOMEN_MM, ""),
        ((512, 512, 987), (1.0, 1.0, 1.0), ABDOMEN_MM, ""),
        ((24, 20, 8), (1.0, 1.0, 1.0), ABDOMEN_MM, ""),
        ((35, 51, 35), (1.0, 1.0, 1.01), (20, 2500), ""),
        ((512, 512, 100), (0.07, 0.07, 0.5), ABDOMEN_MM, "numbers fit centimetres"),
        ((512, 512, 100), (0.0007, 0.0007, 0.005), ABDOMEN_MM, "numbers fit metres"),
        ((512, 512, 100), (700, 700, 5000), ABDOMEN_MM, "numbers fit micrometres"),
        ((512, 512, 100), (0.7, 0.7, 0.04), ABDOMEN_MM, "no body scan has"),
        ((512, 512, 100), (0.7, 0.7, 60), ABDOMEN_MM, "no body scan has"),
        ((40, 40, 40), (25, 25, 25), ABDOMEN_MM, "no body scan has"),
        ((512, 512, 2000), (0.7, 0.7, 2), ABDOMEN_MM, "4e+03 mm long, which no body scan has"),
    ],
)
def test_plausible_grids(size, spacing, limits, said):
    found = implausible(size, spacing, field_of_view=limits)
    assert said in found and bool(said) == bool(found)
