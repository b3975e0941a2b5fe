"""Examples in docstrings do what they say."""

import doctest
import importlib
import subprocess
import sys

import pytest

PACKAGES = ["nnunet_ext.losses", "nnunet_ext.networks", "nnunet_ext.evaluation"]


@pytest.mark.parametrize("module", [*PACKAGES, "nnunet_ext.labels"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module), extraglobs={"torch": importlib.import_module("torch")})
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_there(package):
    module = importlib.import_module(package)
    assert module.__all__
    for name in module.__all__:
        assert getattr(module, name).__doc__


def test_importing_a_package_is_quick():
    code = (
        "import sys, nnunet_ext.evaluation, nnunet_ext.networks; print({'pandas', 'torch', 'timm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "set()\n"
