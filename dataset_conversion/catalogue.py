"""Facts about the public datasets: where they are, under which terms, how large, and what is inside.

Plain data, quick to import: the command line's help is written from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dataset_conversion.dataset import Dataset


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


@dataclass(frozen=True, kw_only=True)
class KnownSource(Source):
    """A public dataset that is the same for everybody.

    Attributes:
        number: usual dataset id.
        name: nnU-Net's dataset name without the number.
        channel_names: by channel.
        labels: names, from value 1 on.
    """

    number: int
    name: str
    channel_names: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def dataset(self) -> Dataset:
        """The dataset that a conversion makes of it."""
        return Dataset(
            self.number,
            self.name,
            self.channel_names,
            {label: value for value, label in enumerate(("background", *self.labels))},
            self.licence,
            self.url,
        )


NIH_PANCREAS = KnownSource(
    title="NIH Pancreas-CT: contrast-enhanced abdominal CT with the pancreas",
    url="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    licence="CC BY 3.0, doi:10.7937/K9/TCIA.2016.tNB1kqBU",
    size="18,942 DICOM slices, about 10 GB, with the NBIA Data Retriever; the labels are a zip of their own",
    contents="80 cases (82 before cases 25 and 70 were withdrawn), one label",
    point_at="a folder that holds, at any depth, the DICOM folders PANCREAS_0001 ... and label0001.nii.gz ...",
    number=501,
    name="NIHPancreas",
    channel_names=("CT",),
    labels=("pancreas",),
)
SLIVER07 = KnownSource(
    title="SLIVER07: CT with the liver",
    url="https://sliver07.grand-challenge.org/ and https://doi.org/10.5281/zenodo.2597908",
    licence="non-commercial liver segmentation research only, cite Heimann et al. doi:10.1109/TMI.2009.2013851",
    size="training-scans.zip, training-labels.zip, test-scans.zip; the training part unpacks to 3.3 GB",
    contents="20 labelled cases and 10 test cases, one label",
    point_at="the folder with the unpacked scans and labels, or with the three zips as downloaded",
    number=502,
    name="SLIVER07",
    channel_names=("CT",),
    labels=("liver",),
)
LITS = KnownSource(
    title="LiTS (2017): CT with liver and liver tumours",
    url="https://competitions.codalab.org/competitions/17094",
    licence="CC BY-NC-ND 4.0",
    size="Training_Batch1.zip, Training_Batch2.zip and the test scans, tens of GB",
    contents="131 labelled cases (0-130) and 70 test cases; labels liver and tumour",
    point_at="a folder that holds volume-0.nii ... and segmentation-0.nii ..., at any depth",
    number=503,
    name="LiTS",
    channel_names=("CT",),
    labels=(
        "liver",
        "tumor",
    ),
)
_CHAOS_MR_ORGANS = ("liver", "right kidney", "left kidney", "spleen")
_CHAOS_LICENCE = "CC BY-NC-SA 4.0, cite doi:10.5281/zenodo.3362844"
_CHAOS_URL = "https://zenodo.org/records/3431873 and https://chaos.grand-challenge.org/"
_CHAOS_SIZE = "CHAOS_Train_Sets.zip 0.9 GB, CHAOS_Test_Sets.zip 1.1 GB"
_CHAOS_POINT_AT = (
    "the folder with Train_Sets (and Test_Sets), or with CHAOS_Train_Sets.zip (and CHAOS_Test_Sets.zip) as downloaded"
)
CHAOS_CT = KnownSource(
    title="CHAOS, CT: healthy livers in the portal venous phase",
    url=_CHAOS_URL,
    licence=_CHAOS_LICENCE,
    size=_CHAOS_SIZE,
    contents="20 labelled and 20 test cases; label liver",
    point_at=_CHAOS_POINT_AT,
    number=504,
    name="CHAOS_CT",
    channel_names=("CT",),
    labels=("liver",),
)
CHAOS_T1DUAL = KnownSource(
    title="CHAOS, MR T1-DUAL: in-phase and opposed-phase as two channels",
    url=_CHAOS_URL,
    licence=_CHAOS_LICENCE,
    size=_CHAOS_SIZE,
    contents="20 labelled and 20 test cases; labels liver, right kidney, left kidney, spleen",
    point_at=_CHAOS_POINT_AT,
    number=505,
    name="CHAOS_T1DUAL",
    channel_names=(
        "T1 in phase",
        "T1 opposed phase",
    ),
    labels=_CHAOS_MR_ORGANS,
)
CHAOS_T2SPIR = KnownSource(
    title="CHAOS, MR T2-SPIR",
    url=_CHAOS_URL,
    licence=_CHAOS_LICENCE,
    size=_CHAOS_SIZE,
    contents="20 labelled and 20 test cases; labels liver, right kidney, left kidney, spleen",
    point_at=_CHAOS_POINT_AT,
    number=506,
    name="CHAOS_T2SPIR",
    channel_names=("T2 SPIR",),
    labels=_CHAOS_MR_ORGANS,
)
BTCV = KnownSource(
    title="BTCV (MICCAI 2015), abdomen: CT with 13 organs",
    url="https://www.synapse.org/#!Synapse:syn3193805/wiki/217789",
    licence="Synapse account and registration for the challenge needed; see its terms, do not pass the data on",
    size="RawData.zip, a few GB",
    contents="30 labelled cases (1-10, 21-40) and 20 test cases (61-80); 13 labels",
    point_at="the folder RawData, or RawData.zip",
    number=507,
    name="BTCV",
    channel_names=("CT",),
    labels=(
        "spleen",
        "right kidney",
        "left kidney",
        "gallbladder",
        "esophagus",
        "liver",
        "stomach",
        "aorta",
        "inferior vena cava",
        "portal vein and splenic vein",
        "pancreas",
        "right adrenal gland",
        "left adrenal gland",
    ),
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


#: Case numbers of the 80 cases that NIH Pancreas-CT has since 2020.
NIH_WITHDRAWN = (25, 70)
NIH_CASES = tuple(i for i in range(1, 83) if i not in NIH_WITHDRAWN)
SLIVER07_CASES = tuple(range(1, 21))
LITS_CASES = tuple(range(131))
CHAOS_CT_CASES = (1, 2, 5, 6, 8, 10, 14, 16, 18, 19, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30)
CHAOS_MR_CASES = (1, 2, 3, 5, 8, 10, 13, 15, 19, 20, 21, 22, 31, 32, 33, 34, 36, 37, 38, 39)
BTCV_CASES = (*range(1, 11), *range(21, 41))
BTCV_TEST_CASES = tuple(range(61, 81))

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
