"""The registry fits the functions it names, and both command lines are made from it."""

import ast
import inspect
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dataset_conversion
from dataset_conversion.registry import CONVERTERS, REQUIRED


@pytest.mark.parametrize("converter", CONVERTERS, ids=lambda converter: converter.command)
def test_entry_fits_its_function(converter):
    parameters = inspect.signature(converter.load()).parameters
    named = {own.name for own in converter.own} | set(converter.fixed)
    assert set(parameters) == named | ({"folder"} if converter.has_source else {"options"})
    for own in converter.own:
        default = parameters[own.name].default
        assert default == (inspect.Parameter.empty if own.default is REQUIRED else own.default)


def test_commands_are_those_of_the_registry():
    for module in (["nnunet_ext", "convert"], ["dataset_conversion"]):
        done = subprocess.run(
            [sys.executable, "-m", *module, "--help"], capture_output=True, encoding="utf-8", check=True
        )
        assert all(f" {converter.command} " in done.stdout for converter in CONVERTERS)


def test_module_is_a_command_line_with_errors_in_one_sentence(raw, tmp_path):
    command = [sys.executable, "-m", "dataset_conversion", "btcv", str(tmp_path / "nowhere")]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path / 'nowhere'} does not exist.\n"


def test_modules_import_each_other_in_no_circle():
    root = Path(dataset_conversion.__file__).parents[1]
    files = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (root / "dataset_conversion").rglob("*.py")
    }
    graph = {}
    for name, file in files.items():
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    found.add(full if full in files else node.module)
    assert "dataset_conversion.cases" in graph["dataset_conversion.btcv"]
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError
