"""From a list of cases to a finished dataset in nnU-Net raw format.

The work goes to ``<nnUNet_raw>/.<dataset>.partial`` and that folder takes its name when everything is there, so that
nothing unfinished can be mistaken for a dataset. Each case leaves a record when it is done; a run after an
interruption takes it up from there. The source is only ever read.
"""

from dataset_conversion.dataset import Dataset
from dataset_conversion.engine.conversion import convert, convert_source
from dataset_conversion.engine.plan import Findings, check_target, folder_name, raw_folder
from dataset_conversion.engine.report import console
from dataset_conversion.engine.work import Record

__all__ = [
    "Dataset",
    "Findings",
    "Record",
    "check_target",
    "console",
    "convert",
    "convert_source",
    "folder_name",
    "raw_folder",
]
