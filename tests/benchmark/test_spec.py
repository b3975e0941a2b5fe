import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_ext.benchmark.matrix import (
    arm_of,
    cell_key,
    cells_of,
    find_cell,
    members_of,
    plans_with_options,
    trainer_name,
)
from nnunet_ext.benchmark.spec import Dataset, Plans
from nnunet_ext.benchmark.spec_file import load, parse, write_example
from nnunet_ext.core.errors import UserError

MINIMAL = {"name": "small", "datasets": [{"id": 4}], "arms": {"stock": "nnUNetTrainer"}}


def made(**changes):
    return parse(MINIMAL | changes, "benchmark.yaml", Path("/data"))


def test_example_is_a_benchmark(tmp_path):
    file = tmp_path / "benchmark.yaml"
    write_example(file)
    spec = load(file)
    assert [arm.name for arm in spec.arms] == ["stock", "MLL"]
    assert spec.folds == (0, 1, 2, 3, 4) and spec.epochs == 250
    commented = file.read_text().replace("\n  # - {", "\n  - {").replace("\n  # MLL_mild", "\n  MLL_mild")
    file.write_text(commented.replace("plans: [nnUNetPlans]", "plans:"))
    spec = load(file)
    assert spec.datasets[1].convert == "lits" and spec.datasets[1].source == tmp_path / "PATH"
    assert spec.plans[1] == Plans("smallPlans", None, "nnUNetPlans", None, 2, None, (8, 16, 32, 64))
    with pytest.raises(UserError, match="exists already"):
        write_example(file)


def test_plain_data_and_back():
    spec = made(
        datasets=[
            {"id": 4},
            {"id": 503, "convert": "lits", "source": "LiTS", "options": ["--labelled", 0.2]},
            "Dataset009_S",
        ],
        plans=["nnUNetPlans", {"name": "small", "from": "nnUNetPlans", "spacing": [3, 2, 2], "batch_size": 6}],
        arms={
            "a": "nnUNetTrainer",
            "b": {"trainer": "nnUNetTrainerMLL", "options": {"boundary_weight": 0.1}, "epochs": 3},
        },
        test_sets={"other": {"images": "i", "labels": "/l", "dataset": "Dataset009_S"}},
        merged={"kidneys": ["left", "right"]},
        published=[{"arm": "a", "label": "liver", "metric": "Dice", "value": 0.9, "source": "Table 1"}],
    )
    again = parse(json.loads(json.dumps(spec.to_dict())), "benchmark.json", Path("/elsewhere"))
    assert again == spec
    assert spec.datasets[1].source == Path("/data/LiTS") and spec.test_sets[0].labels == Path("/l")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"arms": {}}, "names no arms"),
        ({"fold": [0]}, "'fold' is no key: did you mean folds"),
        ({"folds": ["all"]}, "fold all has no validation"),
        ({"folds": [0, 0]}, "the fold 0 twice"),
        ({"folds": [-1]}, "folds must be a whole number from 0, got -1"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"epochs": 0}, "epochs must be a whole number from 1, got 0"),
        ({"arms": {"a b": "nnUNetTrainer"}}, "letters, digits"),
        ({"arms": {"a": {"options": {}}}}, "arm a has no trainer"),
        ({"arms": {"a": "nnUNetTrainer_5epochs"}}, "run length in its trainer"),
        ({"arms": {"a": "nnUNetTrainer", "b": "nnUNetTrainer"}}, "a and b are the same run"),
        ({"arms": {"a": {"trainer": "nnUNetTrainer", "differs": ["split"]}}}, "plans and preprocessed alone"),
        ({"configurations": ["3d_cascade_fullres"]}, "3d_cascade_fullres follows 3d_lowres: list it"),
        ({"arms": {"a": {"trainer": "nnUNetTrainer", "plans": "nnUNetPlans"}}}, "all plans are those of single arms"),
        ({"datasets": [{"source": "x"}]}, "neither id nor name"),
        ({"datasets": [{"id": 4, "source": "x"}]}, "no 'convert:'"),
        ({"datasets": [{"id": True}]}, "id must be a whole number"),
        ({"plans": [{"name": "x", "batch_size": 2}]}, "say 'from:'"),
        ({"plans": [{"name": "x", "from": "y", "features": ["many"]}]}, "features of plans is a list of numbers"),
        ({"resources": {"gpus": 2}}, "one GPU at most"),
        ({"resources": {"memory_gb": "much"}}, "memory_gb must be a number above 0"),
        ({"test_sets": {"t": {"images": "x"}}}, "no folder 'labels:'"),
        ({"mirroring": "no"}, "mirroring must be true or false"),
    ],
)
def test_faults_are_one_sentence(changes, words):
    with pytest.raises(UserError, match=words) as error:
        made(**changes)
    assert "benchmark.yaml" in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_none(tmp_path):
    file = tmp_path / "benchmark.yaml"
    with pytest.raises(UserError, match="benchmark init writes an example"):
        load(file)
    file.write_text("folds: [0]\nfolds: [1]\n")
    with pytest.raises(UserError, match="'folds' stands twice"):
        load(file)
    file.write_text("a: [")
    with pytest.raises(UserError, match="is no YAML file"):
        load(file)


def test_matrix_interleaves_arms_fold_by_fold():
    spec = made(
        datasets=["Dataset004_A"],
        arms={
            "stock": "nnUNetTrainer",
            "long": {"trainer": "nnUNetTrainer", "epochs": 20},
            "own": {"trainer": "T", "plans": "P"},
        },
        epochs=10,
        iterations=5,
        folds=[0, 1],
        seeds=[0, 1],
        plans=["nnUNetPlans", "otherPlans"],
    )
    cells = cells_of(spec)
    assert len(cells) == 2 * 2 * (2 * 2 + 1)  # the arm with plans of its own is there once
    assert [(c.seed, c.fold, c.arm) for c in cells[:4]] == [
        (0, 0, "stock"),
        (0, 0, "long"),
        (0, 0, "own"),
        (0, 0, "stock"),
    ]
    assert cells[0].trainer == "nnUNetTrainer_10epochs_5iters" and cells[1].trainer == "nnUNetTrainer_20epochs_5iters"
    assert cells[2].plans == "P"
    assert cell_key(cells[0]) == "Dataset004_A/3d_fullres/nnUNetPlans/stock/fold_0/seed_0"
    assert all(find_cell(spec, cell_key(cell)) == cell for cell in cells)
    with pytest.raises(UserError, match="has no cell x"):
        find_cell(spec, "x")
    assert trainer_name(made(), arm_of(spec, cells[0])) == "nnUNetTrainer"


def test_plans_of_options_are_told_apart():
    arms = {str(w): {"trainer": "T", "options": {"boundary_weight": w}} for w in (0.1, 0.2)}
    first, second = made(arms=arms).arms
    names = {plans_with_options(arm, "nnUNetPlans") for arm in (first, second)}
    assert len(names) == 2 and all(name.startswith("nnUNetPlans_0-") for name in names)
    assert plans_with_options(made().arms[0], "nnUNetPlans") == "nnUNetPlans"


def test_an_arm_may_take_over_keys_of_another(tmp_path):
    file = tmp_path / "b.yaml"
    file.write_text(
        "datasets: [4]\narms:\n  a: &a {trainer: nnUNetTrainerMLN, options: {channels: 64}}\n"
        "  b: {<<: *a, trainer: nnUNetTrainerCoarseToFine}\n"
    )
    first, second = load(file).arms
    assert (first.trainer, second.trainer) == ("nnUNetTrainerMLN", "nnUNetTrainerCoarseToFine")
    assert first.options == second.options == {"channels": 64}


def test_precision_and_folds_of_an_arm(tmp_path):
    file = tmp_path / "b.yaml"
    text = "datasets: [4]\nfolds: [0, 1]\nprecision: {precision}\narms: {{a: A, b: {{trainer: B, folds: [{fold}]}}}}\n"
    file.write_text(text.format(precision="bfloat16", fold=1))
    spec = load(file)
    assert (spec.precision, spec.arms[0].folds, spec.arms[1].folds) == ("bfloat16", None, (1,))
    assert parse(spec.to_dict(), "b", tmp_path) == spec
    named = replace(spec, datasets=(Dataset(4, "Dataset004_X"),))
    assert [(cell.arm, cell.fold) for cell in cells_of(named)] == [("a", 0), ("a", 1), ("b", 1)]
    file.write_text(text.format(precision="half", fold=1))
    with pytest.raises(UserError, match="precision is one of auto, bfloat16, got 'half'"):
        load(file)
    file.write_text(text.format(precision="auto", fold=2))
    with pytest.raises(UserError, match="arm b has the fold 2, which is not among the folds"):
        load(file)


def test_datasets_of_an_arm(tmp_path):
    content = {
        "name": "x",
        "folds": [0],
        "datasets": [4, 5],
        "arms": {"a": "A", "b": {"trainer": "B", "datasets": [5]}},
    }
    spec = parse(content, "b", tmp_path)
    named = replace(spec, datasets=(Dataset(4, "Dataset004_X"), Dataset(5, "Dataset005_Y")))
    assert [(cell.dataset, cell.arm) for cell in cells_of(named)] == [
        ("Dataset004_X", "a"), ("Dataset005_Y", "a"), ("Dataset005_Y", "b"),
    ]  # fmt: skip
    assert parse(spec.to_dict(), "b", tmp_path) == spec
    content["arms"]["b"]["datasets"] = [6]
    with pytest.raises(UserError, match="arm b has the dataset 6, which is not among the datasets"):
        parse(content, "b", tmp_path)


ENSEMBLES = {
    "name": "x",
    "folds": [0],
    "datasets": [4],
    "configurations": ["2d", "3d_fullres"],
    "arms": {
        "stock": "nnUNetTrainer",
        "other": "nnUNetTrainerMLL",
        "view2": {"trainer": "nnUNetTrainer", "plans": "nnUNetPlans_view2", "configurations": ["2d"]},
        "both": {"ensemble": ["stock", "other"]},
        "views": {"ensemble": ["stock", "view2"], "fuse": "vote", "configurations": ["2d"]},
        "stock_2d_3d": {
            "ensemble": [{"arm": "stock", "configuration": "2d"}, {"arm": "stock", "configuration": "3d_fullres"}],
            "configurations": ["3d_fullres"],
        },
    },
}


def test_ensembles(tmp_path):
    spec = parse(ENSEMBLES, "b", tmp_path)
    assert parse(spec.to_dict(), "b", tmp_path) == spec
    named = replace(spec, datasets=(Dataset(4, "Dataset004_X"),))
    cells = cells_of(named)
    assert [(cell.configuration, cell.arm) for cell in cells] == [
        ("2d", "stock"), ("2d", "other"), ("2d", "view2"), ("2d", "both"), ("2d", "views"),
        ("3d_fullres", "stock"), ("3d_fullres", "other"), ("3d_fullres", "both"), ("3d_fullres", "stock_2d_3d"),
    ]  # fmt: skip
    found = {(cell.configuration, cell.arm): members_of(named, cell) for cell in cells}
    assert found["2d", "stock"] == []
    assert found["2d", "both"] == [cells[0], cells[1]]
    assert found["2d", "views"] == [cells[0], cells[2]]
    assert found["3d_fullres", "stock_2d_3d"] == [cells[0], cells[5]]
    assert cells[3].trainer == "ensemble" and not set(found["3d_fullres", "both"]) - set(cells)


@pytest.mark.parametrize(
    ("name", "arm", "words"),
    [
        ("both", {"ensemble": ["stock"]}, "ensemble both needs two members or more"),
        (
            "both",
            {"ensemble": ["stock", "nobody"]},
            "both is an ensemble of nobody, which is no arm among stock",
        ),
        ("both", {"ensemble": ["stock", "views"]}, "both is an ensemble of views, which is no arm among"),
        ("both", {"ensemble": ["stock", "view2"]}, "ensemble both needs view2 in 3d_fullres, fold 0, which is not in"),
        ("both", {"ensemble": ["stock", "other"], "trainer": "X"}, "arm both has a trainer and an ensemble"),
        ("both", {"ensemble": ["stock", "other"], "fuse": "max"}, "fuse is one of mean, vote, got 'max'"),
        ("both", {"ensemble": [{"arm": "stock", "config": "2d"}, "other"]}, "'config' is no key of a member of both"),
        ("view2", {"trainer": "X", "configurations": ["3d_lowres"]}, "arm view2 has the configuration 3d_lowres"),
        ("view2", {"trainer": "X", "datasets": [5]}, "arm view2 has the dataset 5, which is not among the datasets"),
    ],
)
def test_ensembles_that_cannot_be(tmp_path, name, arm, words):
    with pytest.raises(UserError, match=words):
        parse(ENSEMBLES | {"arms": ENSEMBLES["arms"] | {name: arm}}, "b", tmp_path)


def test_plans_of_an_arm_are_its_own(tmp_path):
    content = {
        "name": "x",
        "folds": [0],
        "datasets": [4],
        "configurations": ["2d"],
        "plans": ["nnUNetPlans", {"name": "nnUNetPlans_view2", "from": "nnUNetPlans", "view": 2}],
        "arms": {"one": "A", "two": {"trainer": "A", "plans": "nnUNetPlans_view2"}},
    }
    spec = parse(content, "b", tmp_path)
    assert parse(spec.to_dict(), "b", tmp_path) == spec
    named = replace(spec, datasets=(Dataset(4, "Dataset004_X"),))
    assert [(cell.arm, cell.plans) for cell in cells_of(named)] == [
        ("one", "nnUNetPlans"),
        ("two", "nnUNetPlans_view2"),
    ]
    for plans, words in (
        ([{"name": "Other", "from": "nnUNetPlans", "view": 2}], "plans Other are view 2: call them nnUNetPlans_view2"),
        ([{"name": "nnUNetPlans_view4", "from": "nnUNetPlans", "view": 4}], "view of plans is 2 or 3, got 4"),
    ):
        with pytest.raises(UserError, match=words):
            parse(content | {"plans": ["nnUNetPlans", *plans]}, "b", tmp_path)
