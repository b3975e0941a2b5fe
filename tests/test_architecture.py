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
    "nnunet_ext.random_states": set(),
    "nnunet_ext.planners": {"nnunet_ext.core"},
    "nnunet_ext.labels": {"nnunet_ext.precision"},
    "nnunet_ext.losses": {"nnunet_ext.labels", "nnunet_ext.precision"},
    "nnunet_ext.networks": {"nnunet_ext.labels", "nnunet_ext.precision", "nnunet_ext.losses"},
    "nnunet_ext.data": {"nnunet_ext.core", "nnunet_ext.labels", "nnunet_ext.precision", "nnunet_ext.random_states"},
    "nnunet_ext.training": {
        "nnunet_ext.core",
        "nnunet_ext.labels",
        "nnunet_ext.precision",
        "nnunet_ext.planners",
        "nnunet_ext.random_states",
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
        "nnunet_ext.networks",
        "nnunet_ext.views",
        "nnunet_ext.phantom",
        "dataset_conversion",
    },
    "nnunet_ext.views": {"nnunet_ext.core", "nnunet_ext.planners", "nnunet_ext.evaluation"},
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


# Modules without a test file of their own name, and the one that holds their tests.
TESTED_IN = {
    **{
        f"nnunet_ext/benchmark/{name}.py": "tests/benchmark/test_driver.py"
        for name in ("engine", "graph", "state", "workspace", "jobs/pretended")
    },
    **{
        f"nnunet_ext/benchmark/jobs/{name}.py": "tests/benchmark/test_jobs.py"
        for name in ("cell", "child", "ensemble", "precision", "prediction", "progress", "scoring", "training")
    },
    "nnunet_ext/benchmark/spec_file.py": "tests/benchmark/test_spec.py",
    "nnunet_ext/views/folders.py": "tests/cli/test_views.py",
    "nnunet_ext/training/structural.py": "tests/trainers/test_multi_level.py",
    "nnunet_ext/benchmark/fingerprint.py": "tests/benchmark/test_checks.py",
    "nnunet_ext/benchmark/jobs/timing.py": "tests/benchmark/test_estimate.py",
    "nnunet_ext/benchmark/jobs/prepare.py": "tests/benchmark/test_checks.py",
    "nnunet_ext/benchmark/matrix.py": "tests/benchmark/test_spec.py",
    "nnunet_ext/benchmark/small.py": "tests/benchmark/test_experiments.py",
    "nnunet_ext/cli/benchmark.py": "tests/benchmark/test_checks.py",
    "nnunet_ext/cli/demo.py": "tests/test_documentation.py",
    "nnunet_ext/cli/plans_files.py": "tests/cli/test_options.py",
    "nnunet_ext/cli/unlabelled.py": "tests/data/unlabelled/test_preprocess.py",
    "nnunet_ext/core/console.py": "tests/core/test_errors.py",
    "nnunet_ext/core/nifti_values.py": "tests/data/unlabelled/test_values.py",
    "nnunet_ext/data/slice_distance_maps.py": "tests/trainers/test_coarse_to_fine.py",
    "nnunet_ext/data/unlabelled/next_stage.py": "tests/trainers/test_sdnet_cascade.py",
    "nnunet_ext/data/unlabelled/ready.py": "tests/trainers/test_sdnet_unlabelled.py",
    "nnunet_ext/data/unlabelled/store.py": "tests/data/unlabelled/test_preprocess.py",
    "nnunet_ext/data/unlabelled_loader.py": "tests/trainers/test_sdnet_unlabelled.py",
    "nnunet_ext/evaluation/picture.py": "tests/evaluation/test_report.py",
    "nnunet_ext/evaluation/worker.py": "tests/evaluation/test_folders.py",
    **{
        f"nnunet_ext/phantom/{name}.py": f"tests/dataset_conversion/test_{name}.py"
        for name in ("btcv", "chaos", "lits", "msd", "nih_pancreas", "sliver07")
    },
    "nnunet_ext/phantom/contrast.py": "tests/phantom/test_anatomy.py",
    "nnunet_ext/phantom/dicom.py": "tests/dataset_conversion/formats/test_dicom.py",
    "nnunet_ext/phantom/layout.py": "tests/dataset_conversion/test_msd.py",
    "nnunet_ext/plugin/registry.py": "tests/test_documentation.py",
    "nnunet_ext/plugin/search_path/nnunet_ext_plugin_trainers.py": "tests/plugin/test_lookup.py",
    "nnunet_ext/planners.py": "tests/cli/test_views.py",
    "nnunet_ext/precision.py": "tests/losses/test_boundary.py",
    "nnunet_ext/training/adversarial.py": "tests/trainers/test_refined_gan.py",
    "nnunet_ext/training/cost/planning.py": "tests/cli/test_cost.py",
    "nnunet_ext/training/dual.py": "tests/trainers/test_sdnet_checkpoints.py",
    "nnunet_ext/training/loaders.py": "tests/trainers/test_sdnet_unlabelled.py",
    "nnunet_ext/training/partial_labels.py": "tests/trainers/test_pann.py",
    "nnunet_ext/views/turned_plans.py": "tests/cli/test_views.py",
    "dataset_conversion/cases.py": "tests/dataset_conversion/test_integrity.py",
    "dataset_conversion/catalogue.py": "tests/dataset_conversion/test_registry.py",
    "dataset_conversion/cli.py": "tests/dataset_conversion/test_registry.py",
    "dataset_conversion/dataset.py": "tests/dataset_conversion/test_registry.py",
    "dataset_conversion/remarks.py": "tests/dataset_conversion/test_headers.py",
    "dataset_conversion/options.py": "tests/dataset_conversion/test_registry.py",
    **{
        f"dataset_conversion/engine/{name}.py": "tests/dataset_conversion/test_msd.py"
        for name in ("conversion", "doubts", "plan", "publish", "report", "work")
    },
    "dataset_conversion/formats/geometry.py": "tests/dataset_conversion/formats/test_volumes.py",
    "dataset_conversion/formats/metaimage.py": "tests/dataset_conversion/test_headers.py",
    "dataset_conversion/formats/nifti_geometry.py": "tests/dataset_conversion/test_headers.py",
    "dataset_conversion/formats/nifti_header.py": "tests/dataset_conversion/test_headers.py",
}


def test_tests_mirror_the_packages():
    """A maintainer finds the tests of a module by its name, or here."""
    missing = []
    for package, folder in (("nnunet_ext", "tests"), ("dataset_conversion", "tests/dataset_conversion")):
        for file in sorted((ROOT / package).rglob("*.py")):
            place = file.relative_to(ROOT / package)
            if place.name in ("__init__.py", "__main__.py"):
                continue
            module, own = f"{package}/{place}", f"{folder}/{place.parent}/test_{place.name}".replace("/./", "/")
            named = TESTED_IN.get(module)
            assert not (named and (ROOT / own).exists()), f"{module} has tests of its own name: take it off the list"
            if not (ROOT / (named or own)).exists():
                missing.append(module)
    assert not missing
    assert not [module for module in TESTED_IN if not (ROOT / module).exists()]
