"""The method of forty lines in CONTRIBUTING works as it stands there."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.training.building import SETTINGS, build, random_batch

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    (code,) = re.findall(r"<!-- example: add a method -->\n```python\n(.*?)```", TEXT, re.DOTALL)
    file = tmp_path_factory.mktemp("example") / "contributing_example.py"
    file.write_text(code)
    spec = importlib.util.spec_from_file_location(file.stem, file)
    sys.modules[file.stem] = module = importlib.util.module_from_spec(spec)  # dataclasses look their types up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_example_trains_resumes_and_has_options(dataset, example, tmp_path, setting):
    made = {"name": "", "trainer": example.nnUNetTrainerEntropy, **SETTINGS[setting]}
    trainer = build(dataset, **made, entropy_weight=0.5)
    trainer.initialize()
    trainer.set_deep_supervision_enabled(True)
    batch = random_batch(trainer)
    with torch.no_grad():
        logits = trainer.network(batch["data"])[0].double()
    p = torch.sigmoid(logits) if trainer.label_manager.has_regions else torch.softmax(logits, 1)
    terms = -(p * p.log()) - ((1 - p) * (1 - p).log() if trainer.label_manager.has_regions else 0)
    expected = terms.mean() if trainer.label_manager.has_regions else terms.sum(1).mean()
    output = trainer.train_step(batch)
    assert output["entropy"] == pytest.approx(expected.item(), rel=1e-4)
    assert output["loss"] == pytest.approx(output["basic"] + 0.5 * output["entropy"], rel=1e-5)
    trainer.save_checkpoint(str(tmp_path / "c.pth"))
    again = build(dataset, **made)
    again.load_checkpoint(str(tmp_path / "c.pth"))
    assert all(torch.equal(a, b) for a, b in zip(again.network.parameters(), trainer.network.parameters(), strict=True))
    log = Path(again.log_file).read_text()
    assert "options have changed since the checkpoint: entropy_weight: 0.5, now 0.1" in log
