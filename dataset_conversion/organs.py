"""Names that datasets give to one and the same organ."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

#: Other names by the one they are compared under. Names differ in case, underscores and hyphens anyway.
SYNONYMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "spleen": (),
        "right kidney": ("kidney right", "kidney r", "r kidney", "rkidney"),
        "left kidney": ("kidney left", "kidney l", "l kidney", "lkidney"),
        "gallbladder": ("gall bladder",),
        "esophagus": ("oesophagus",),
        "liver": (),
        "stomach": (),
        "aorta": ("abdominal aorta",),
        "inferior vena cava": ("ivc", "postcava", "post cava", "vena cava inferior"),
        "portal vein and splenic vein": (
            "portal vein & splenic vein",
            "portal and splenic vein",
            "portal and splenic veins",
            "portal vein splenic vein",
        ),
        "pancreas": (),
        "right adrenal gland": ("adrenal gland right", "right adrenal", "rag", "adrenal right"),
        "left adrenal gland": ("adrenal gland left", "left adrenal", "lag", "adrenal left"),
        "duodenum": (),
        "urinary bladder": ("bladder",),
        "prostate": ("prostate/uterus", "prostate uterus", "prostate or uterus"),
    }
)
_CANONICAL = {other: name for name, others in SYNONYMS.items() for other in (name, *others)}
_LESION = re.compile(r"\b(tumou?rs?|cancer|lesions?|metastas[ie]s|cysts?)\b")


def canonical(name: str) -> str:
    """The name that all synonyms of an organ have in common; an unknown name without case, ``_`` and ``-``."""
    plain = " ".join(re.sub(r"[_\-]+", " ", name.lower()).split())
    return _CANONICAL.get(plain, plain)


def is_lesion_of(label: str, organ: str) -> bool:
    """Whether a label names a lesion, and either no organ or this one: ``tumor``, ``liver_tumour``."""
    plain = canonical(label)
    if _LESION.search(plain) is None:
        return False
    rest = " ".join(_LESION.sub(" ", plain).split())
    return rest == "" or canonical(rest) == canonical(organ)
