"""The converters as functions."""

from pathlib import Path

from dataset_conversion.chaos import ChaosPart
from dataset_conversion.options import Options
from dataset_conversion.registry import converter

convert_msd = converter("msd")
convert_nih_pancreas = converter("nih-pancreas")
convert_sliver07 = converter("sliver07")
convert_lits = converter("lits")
convert_btcv = converter("btcv")


def convert_chaos(source: Path, options: Options, part: ChaosPart) -> Path:
    return converter(f"chaos-{part.lower()}")(source, options)
