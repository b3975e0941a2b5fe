import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nnunet_ext.cli.app import app
from nnunet_ext.cli.evaluation import named_folders
from nnunet_ext.core.errors import UserError
from tests.evaluation.folders import dataset, write

DATA = Path(os.environ.get("NNUNET_EXT_DATA", Path(__file__).parents[3] / "shared" / "data"))


def invoke(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_evaluate_and_compare(tmp_path):
    reference, first = dataset(tmp_path / "a")
    _, second = dataset(tmp_path / "b", shift=3)
    done = invoke("evaluate", reference, first, "-np", 1)
    assert done.exit_code == 0, done.output
    assert {p.name for p in (first / "evaluation").iterdir()} == {"summary.json", "metrics.csv", "report.html", "cases"}
    assert "90.00 ± 0.00" in done.output and "6-neighbourhood" in done.output
    options = ("-djfile", tmp_path / "a" / "dataset.json", "-o", tmp_path / "out", "-np", 2, "--worst", 0)
    assert invoke("evaluate", reference, second, *options).exit_code == 0
    done = invoke("compare", f"stock={first}", f"new={tmp_path / 'out'}", "-o", tmp_path / "cmp")
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "cmp").iterdir()} == {
        "comparison.csv",
        "tables.md",
        "tables.tex",
        "report.html",
    }
    table = pd.read_csv(tmp_path / "cmp" / "comparison.csv")
    assert table[(table["metric"] == "Dice") & (table["label"] == "liver")]["losses"].item() == 3


def test_every_convention_can_be_chosen(tmp_path):
    reference, prediction = dataset(tmp_path, n=1)
    options = (
        "--preset", "chaos", "--border", 18, "--edge", "--averaging", "mean_of_sides", "--percentile", "max_of_sides",
        "--absent", "12.5", "--nsd", 0.5, "--nsd", 3, "--no-report",
    )  # fmt: skip
    done = invoke("evaluate", reference, prediction, "-o", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "report.html").exists()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    found = summary["nnunet_ext"]["conventions"]
    assert found == {
        "preset": "chaos",
        "border_neighbourhood": 18,
        "edge_is_surface": True,
        "averaging": "mean_of_sides",
        "percentile_rule": "max_of_sides",
        "volume_denominator": "reference",
        "absent_distance": 12.5,
        "nsd_tolerances_mm": [0.5, 3.0],
        "lesions_belong_to_organ": False,
        "scores": ["chaos"],
    }
    assert {"NSD_0.5mm", "NSD_3mm", "CHAOS_score"} <= set(summary["mean"]["1"])


def test_a_user_error_is_one_sentence(tmp_path):
    reference, prediction = dataset(tmp_path)
    (prediction / "case_1.nii.gz").unlink()
    command = [sys.executable, "-m", "nnunet_ext", "evaluate", str(reference), str(prediction), "-np", "1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 1 of 3 predictions missing: case_1") and "Traceback" not in done.stderr
    done = invoke("evaluate", reference, prediction, "-np", 1, "--allow-missing", "--no-report")
    assert done.exit_code == 0 and "scored as missed" in done.output


def test_pictures_have_the_images_of_the_raw_dataset(tmp_path, monkeypatch):
    raw = tmp_path / "nnUNet_raw" / "Dataset007_Pancreas"
    reference, prediction = dataset(raw)
    labels = reference.rename(tmp_path / "gt")
    options = (labels, prediction.rename(tmp_path / "predicted"), "-np", 1, "-djfile")
    copied = shutil.copy(raw / "dataset.json", tmp_path / "dataset.json")
    monkeypatch.delenv("nnUNet_raw", raising=False)

    done = invoke("evaluate", *options, copied)
    assert "name their folder with --images" in done.output
    assert "image not found" in (tmp_path / "predicted" / "evaluation" / "report.html").read_text(encoding="utf-8")
    for more in ((raw / "dataset.json",), (copied, "--images", raw / "imagesTr")):
        done = invoke("evaluate", *options, *more)
        assert done.exit_code == 0, done.output
        assert "--images" not in done.output
        assert "image not found" not in (tmp_path / "predicted" / "evaluation" / "report.html").read_text(
            encoding="utf-8"
        )
    done = invoke("evaluate", *options, copied, "--images", tmp_path / "nowhere")
    assert done.exit_code == 1 and "--images" in str(done.exception)


def test_names_of_results():
    assert named_folders(["a=x", "b=y=z"]) == {"a": Path("x"), "b": Path("y=z")}
    for bad in (["a"], ["=x"], ["a="], ["a=x", "a=y"]):
        with pytest.raises(UserError):
            named_folders(bad)


def test_help_is_quick():
    code = "import sys, nnunet_ext.cli.app; sys.exit(bool({'scipy', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(not (DATA / "Task04_Hippocampus").is_dir(), reason="the shared real data are not here")
def test_real_labels(tmp_path):
    source = DATA / "Task04_Hippocampus" / "labelsTr"
    files = sorted(source.glob("hippocampus_*.nii.gz"))[:4]
    for file in files:
        array = np.asanyarray(nibabel.load(file).dataobj).transpose(2, 1, 0).astype(np.uint8)
        write(tmp_path / "labels" / file.name, array, (1, 1, 1))
        write(tmp_path / "predictions" / file.name, np.roll(array, 1, axis=2), (1, 1, 1))
    labels = {"background": 0, "Anterior": 1, "Posterior": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": labels, "file_ending": ".nii.gz"}))
    done = invoke("evaluate", tmp_path / "labels", tmp_path / "predictions", "-np", 1)
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "predictions" / "evaluation" / "metrics.csv")
    assert len(table) == 8 and table["Dice"].between(0.7, 0.99).all() and table["HD"].between(1, 2).all()
