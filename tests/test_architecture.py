"""Arrows between packages point one way, as CONTRIBUTING says."""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What each part may import of the project, beside itself.
ALLOWED = {
    "nnunet_ext.core": {"nnunet_ext"},
    "nnunet_ext.precision": set(),
    "nnunet_ext.labels": {"nnunet_ext.precision"},
    "nnunet_ext.losses": {"nnunet_ext.labels", "nnunet_ext.precision"},
    "nnunet_ext.networks": {"nnunet_ext.labels", "nnunet_ext.precision", "nnunet_ext.losses"},
    "nnunet_ext.data": {"nnunet_ext.core", "nnunet_ext.labels", "nnunet_ext.precision"},
    "nnunet_ext.training": {
        "nnunet_ext.core",
        "nnunet_ext.labels",
        "nnunet_ext.precision",
        "nnunet_ext.losses",
        "nnunet_ext.networks",
        "nnunet_ext.data",
    },
    "nnunet_ext.evaluation": {"nnunet_ext", "nnunet_ext.core"},
    "nnunet_ext.benchmark": {
        "nnunet_ext",
        "nnunet_ext.core",
        "nnunet_ext.evaluation",
        "nnunet_ext.plugin",
        "nnunet_ext.training",
        "nnunet_ext.phantom",
        "dataset_conversion",
    },
    "nnunet_ext.phantom": {"nnunet_ext.core"},
    "dataset_conversion": {"nnunet_ext", "nnunet_ext.core"},
}
WITHOUT_TORCH = {"nnunet_ext.core", "nnunet_ext.evaluation", "nnunet_ext.phantom", "dataset_conversion"}


def part(module: str) -> str:
    """The package of the project that a module belongs to."""
    pieces = module.split(".")
    return pieces[0] if pieces[0] == "dataset_conversion" else ".".join(pieces[:2])


@cache
def modules():
    return tuple(_parsed())


def _parsed():
    for package in ("nnunet_ext", "dataset_conversion"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST, package: str):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, package
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def arrows():
    return {
        (name, part(found))
        for name, tree in modules()
        for found in imports(tree, name)
        if found.split(".")[0] in {"nnunet_ext", "dataset_conversion"}
    }


@pytest.mark.parametrize("package", ALLOWED)
def test_nothing_points_back_up(package):
    found = {
        (name, to) for name, to in arrows() if part(name) == package and to not in (package, "nnunet_ext.__version__")
    }
    assert {(name, to) for name, to in found if to not in ALLOWED[package]} == set()


@pytest.mark.parametrize("package", sorted(WITHOUT_TORCH))
def test_what_needs_no_torch_does_not_import_it(package):
    using = {
        name
        for name, tree in modules()
        if part(name) == package
        for found in imports(tree, name)
        if found.split(".")[0] == "torch"
    }
    assert using == set()


def test_all_rules_are_of_packages_that_exist():
    parts = {part(name) for name, _ in modules()}
    assert parts >= set(ALLOWED)
