"""Facts about the public datasets: where they are, under which terms, how large, and what is inside.

Plain data, quick to import: the command line's help is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Source:
    """A public dataset.

    Attributes:
        title: its name.
        url: where to get it.
        licence: terms of use, in short.
        size: what has to be downloaded.
        contents: cases and labels.
        point_at: which folder or archive to give to the converter.
    """

    title: str
    url: str
    licence: str
    size: str
    contents: str
    point_at: str

    def help(self) -> str:
        """Text for the command line's help."""
        return (
            f"{self.title}.\n\n"
            f"[bold]Get it:[/bold] {self.url} ({self.size}).\n\n"
            f"[bold]Terms:[/bold] {self.licence}.\n\n"
            f"[bold]Contents:[/bold] {self.contents}.\n\n"
            f"[bold]SOURCE:[/bold] {self.point_at}."
        )


MSD = Source(
    title="Medical Segmentation Decathlon, any of its ten tasks, or a dataset laid out like one",
    url="http://medicaldecathlon.com/",
    licence="CC BY-SA 4.0",
    size="0.03 to 27 GB a task",
    contents="Task01 to Task10 with images, labels of the training cases and unlabelled test images",
    point_at="the folder TaskXX_Name (with imagesTr, labelsTr, imagesTs and dataset.json), any folder that holds "
    "exactly one, or the downloaded .tar",
)


@dataclass(frozen=True)
class MsdTask:
    """Channels and labels of one Decathlon task, for copies that lost their dataset.json."""

    name: str
    channels: tuple[str, ...]
    labels: tuple[str, ...]


MSD_TASKS: Mapping[int, MsdTask] = MappingProxyType(
    {
        1: MsdTask(
            "BrainTumour",
            ("FLAIR", "T1w", "t1gd", "T2w"),
            ("edema", "non-enhancing tumor", "enhancing tumour"),
        ),
        2: MsdTask("Heart", ("MRI",), ("left atrium",)),
        3: MsdTask("Liver", ("CT",), ("liver", "cancer")),
        4: MsdTask("Hippocampus", ("MRI",), ("Anterior", "Posterior")),
        5: MsdTask("Prostate", ("T2", "ADC"), ("PZ", "TZ")),
        6: MsdTask("Lung", ("CT",), ("cancer",)),
        7: MsdTask("Pancreas", ("CT",), ("pancreas", "cancer")),
        8: MsdTask("HepaticVessel", ("CT",), ("Vessel", "Tumour")),
        9: MsdTask("Spleen", ("CT",), ("spleen",)),
        10: MsdTask("Colon", ("CT",), ("colon cancer primaries",)),
    }
)
