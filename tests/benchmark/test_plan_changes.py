"""Plans that are there already, compared with those that a benchmark asks for."""

import json
from pathlib import Path

import pytest

from nnunet_ext.benchmark import checks
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.core.errors import UserError
from tests.benchmark.running import content
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
