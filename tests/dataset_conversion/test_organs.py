"""Names of organs and lesions."""

import pytest

from dataset_conversion.organs import SYNONYMS, canonical, is_lesion_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Right_Kidney", "right kidney"),
        ("kidney-right", "right kidney"),
        ("IVC", "inferior vena cava"),
        ("Oesophagus", "esophagus"),
        ("  Spleen ", "spleen"),
        ("Heart_Atrium", "heart atrium"),
    ],
)
def test_synonyms_have_one_name(name, expected):
    assert canonical(name) == expected


def test_no_synonym_is_that_of_two_organs():
    names = [name for organ, others in SYNONYMS.items() for name in (organ, *others)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("label", "organ", "expected"),
    [
        ("tumor", "liver", True),
        ("liver_tumour", "liver", True),
        ("Liver", "liver", False),
        ("kidney left cyst", "left kidney", True),
        ("kidney_cyst", "left kidney", False),
        ("pancreas cancer", "liver", False),
        ("metastases", "pancreas", True),
    ],
)
def test_lesions_belong_to_their_organ_or_to_any(label, organ, expected):
    assert is_lesion_of(label, organ) == expected
