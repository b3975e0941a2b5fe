"""What a reader has to say of a file that it could read, from harmless to unusable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remarks:
    """Clauses about a file, of which its name is the subject: "its header has ...".

    Attributes:
        notes: for the report.
        doubts: what most likely is a mistake; the conversion stops, and with ``--force`` they are notes.
        fault: why the geometry cannot be used at all, empty where it can; of a label map it is not needed.
    """

    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    fault: str = ""


NOTHING = Remarks()
