"""Plans that are there already, compared with those that a benchmark asks for."""

import json
from pathlib import Path

import pytest

from nnunet_ext.benchmark import checks
from nnunet_ext.benchmark.jobs.prepare import prepare
from nnunet_ext.benchmark.plan_changes import change
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.benchmark.workspace import Run
from nnunet_ext.core.errors import UserError
from tests.benchmark.running import content, space_of
from tests.conftest import PLANS, Dataset


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 99}, r"with batch_size 2 in 2d, not 99: give plans \w+ another name"),
        ({"patch_size": [32, 48, 64]}, r"with patch_size \[\d+, \d+\] in 2d, not \[48, 64\]"),
        ({"features": [5] * 9}, r"with features \[.*\] in 2d, not \[5, 5"),
        ({"spacing": [9.0, 8.0, 7.0]}, r"with spacing \[.*\] in 2d, not \[8.0, 7.0\]"),
    ],
)
def test_plans_of_another_benchmark_are_not_taken_for_those_asked_for(dataset: Dataset, changes, words):
    asked = content(plans=[{"name": PLANS, "from": "nnUNetPlans", **changes}], configurations=["2d"])
    with pytest.raises(UserError, match=words):
        checks.check_environment(parse(asked, "benchmark.yaml", Path("/data")))


def test_plans_that_are_as_asked_for_are_taken(dataset: Dataset):
    there = json.loads((dataset.preprocessed / f"{PLANS}.json").read_text())
    own = there["configurations"]["3d_fullres"]
    plans = {"name": PLANS, "from": "nnUNetPlans", "batch_size": own["batch_size"], "patch_size": own["patch_size"]}
    plans |= {"spacing": own["spacing"], "features": own["architecture"]["arch_kwargs"]["features_per_stage"]}
    asked = content(plans=[plans], configurations=["3d_fullres"])
    checks.check_environment(parse(asked, "benchmark.yaml", Path("/data")))


@pytest.mark.parametrize(
    ("configuration", "patch", "words"),
    [
        ("2d", [3, 16, 18], r"fewPlans: a patch_size of \[16, 18\] does not fit .* name multiples of \[8, 16\]"),
        ("3d_fullres", [6, 16, 16], r"patch_size of \[6, 16, 16\] does not .* name multiples of \[4, 8, 16\]"),
        ("3d_fullres", [16, 16], r"patch_size \[16, 16\] has 2 numbers: name 3"),
    ],
)
def test_a_patch_that_the_network_cannot_halve_is_refused(configuration, patch, words):
    strides = [[1, 1, 1], [1, 1, 2], [2, 2, 2], [2, 4, 4]]
    axes = 2 if configuration == "2d" else 3
    arguments = {"strides": [stride[-axes:] for stride in strides], "n_stages": 4, "features_per_stage": [4] * 4}
    plan = {"patch_size": [32, 64, 64][-axes:], "architecture": {"arch_kwargs": arguments}}
    plans = {"name": "fewPlans", "from": "nnUNetPlans", "patch_size": patch}
    asked = parse(content(plans=[plans], configurations=[configuration]), "benchmark.yaml", Path("/data")).plans[0]
    with pytest.raises(UserError, match=words):
        change(plan, asked)
    assert plan["patch_size"] == [32, 64, 64][-axes:]


def test_plans_that_cannot_be_changed_are_not_left_for_the_next_attempt(writable_dataset: Dataset, tmp_path):
    plans = {"name": "fewPlans", "from": PLANS, "features": [4]}
    space = space_of(tmp_path / "work", writable_dataset.name, Run(), plans=[plans], configurations=["2d"])
    dataset = space.spec.datasets[0]
    for _ in range(2):
        with pytest.raises(UserError, match=r"fewPlans have 1 features for \d stages: name more"):
            prepare(space, dataset)
    assert not (writable_dataset.preprocessed / "fewPlans.json").exists()
