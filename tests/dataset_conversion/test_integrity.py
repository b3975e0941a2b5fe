"""nnU-Net's own integrity check on every converted dataset, in link and in copy mode."""

from multiprocessing.pool import ThreadPool
from types import SimpleNamespace

import pytest
from nnunetv2.experiment_planning import verify_dataset_integrity as integrity

from dataset_conversion.options import Options
from nnunet_ext.phantom.btcv import write_btcv
from nnunet_ext.phantom.chaos import write_chaos
from nnunet_ext.phantom.contrast import CT, MR_T2_SPIR
from nnunet_ext.phantom.lits import write_lits
from nnunet_ext.phantom.msd import write_msd
from nnunet_ext.phantom.nih_pancreas import write_nih_pancreas
from nnunet_ext.phantom.sliver07 import write_sliver07
from tests.dataset_conversion.converting import (
    convert_btcv,
    convert_chaos,
    convert_lits,
    convert_msd,
    convert_nih_pancreas,
    convert_sliver07,
)

SHAPE = (8, 20, 24)
CASES = {
    "msd": (lambda f: write_msd(f, cases=2, shape=SHAPE), convert_msd),
    "msd 4D": (lambda f: write_msd(f, cases=2, shape=SHAPE, modalities={"CT": CT, "MR": MR_T2_SPIR}), convert_msd),
    "nih-pancreas": (lambda f: write_nih_pancreas(f, numbers=(1, 2), shape=SHAPE), convert_nih_pancreas),
    "sliver07": (lambda f: write_sliver07(f, numbers=(1, 2), shape=SHAPE), convert_sliver07),
    "lits": (
        lambda f: write_lits(
            f, numbers=(0, 1, 2, 3), lost_spacing=(1,), useless_label_header=(2,), other_orientation=(3,), shape=SHAPE
        ),
        convert_lits,
    ),
    "btcv": (lambda f: write_btcv(f, numbers=(1, 2), shape=SHAPE), convert_btcv),
    **{
        f"chaos {part}": (
            lambda f, part=part: write_chaos(f, part, numbers=(1, 2), shape=SHAPE),
            lambda source, options, part=part: convert_chaos(source, options, part),
        )
        for part in ("CT", "T1DUAL", "T2SPIR")
    },
}


@pytest.fixture
def threads(monkeypatch):
    """The check starts processes that import torch each; threads do here."""
    context = SimpleNamespace(Pool=ThreadPool)
    monkeypatch.setattr(integrity, "multiprocessing", SimpleNamespace(get_context=lambda kind: context))


@pytest.mark.parametrize("mode", ["link", "copy"])
@pytest.mark.parametrize("name", CASES)
def test_integrity_without_a_warning(raw, tmp_path, threads, capsys, name, mode):
    write, convert = CASES[name]
    dataset = convert(write(tmp_path / "d").folder, Options(mode=mode))
    capsys.readouterr()
    integrity.verify_dataset_integrity(str(dataset), 2)
    output = capsys.readouterr().out
    assert "verify_dataset_integrity Done" in output
    assert "Warning" not in output and "Error" not in output
