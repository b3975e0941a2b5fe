"""What is built from the project installs, and nnU-Net finds the trainers in it."""

import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder)
    return folder


def test_nnunet_finds_the_trainers_of_the_wheel(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path)
    code = (
        "import sys, site; installed, packages = sys.argv[1:]; sys.path[:0] = [installed]; sys.path.append(packages); "
        "site.addsitedir(installed); import nnunet_ext; print(nnunet_ext.__file__); "  # reads the start-up hook
        "import os; from nnunetv2.run.run_training import get_trainer_from_args; "
        "from nnunet_ext.plugin.lookup import find_trainer; print(find_trainer('nnUNetTrainerMLL_5epochs').__name__); "
        "print(os.environ['nnUNet_extTrainer'])"
    )
    out = run(sys.executable, "-S", "-c", code, tmp_path, sysconfig.get_path("purelib")).splitlines()
    assert Path(out[0]).is_relative_to(tmp_path)
    assert out[1] == "nnUNetTrainerMLL_5epochs"
    assert str(tmp_path) in out[2]


def test_files_that_are_no_modules_are_in_the_wheel(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for folder in ("nnunet_ext", "dataset_conversion"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file() and file.suffix != ".pyc" and file.parent.name != "site":
                assert file.relative_to(ROOT).as_posix() in names
    assert {"nnunet_ext.pth", "nnunet_ext.start"} <= set(names), "the start-up hook lies beside the packages"


def test_the_source_distribution_holds_what_its_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    for name in (
        "pyproject.toml",
        "README.md",
        "mkdocs.yml",
        "tests/conftest.py",
        "scripts/test.sh",
        "docs/how-to.md",
        "examples/own_trainer.py",
    ):
        assert name in names
