"""The cells of a benchmark, and what each of them runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

from nnunet_ext.benchmark.records import CELLS, Cell
from nnunet_ext.benchmark.spec import ENSEMBLE, Arm, Dataset, Spec
from nnunet_ext.core.errors import UserError


def trainer_name(spec: Spec, arm: Arm) -> str:
    """Class name of an arm's trainer, run length included; without one it trains as long as it would alone."""
    if arm.ensemble:
        return ENSEMBLE
    epochs, iterations = arm.epochs or spec.epochs, arm.iterations or spec.iterations
    parts = [f"{epochs}epochs"] if epochs else []
    parts += [f"{iterations}iters"] if iterations else []
    return "_".join([arm.trainer, *parts])


def cells_of(spec: Spec) -> list[Cell]:
    """All cells, seed by seed and fold by fold with the arms interleaved, so that a part of them is a fair comparison.

    Datasets must have their full names.
    """
    return list(dict.fromkeys(_cells(spec)))


def _places(spec: Spec) -> Iterator[tuple[Dataset, str, str, Arm, int, int]]:
    for seed, fold, dataset, configuration, plans, arm in product(
        spec.seeds, spec.folds, spec.datasets, spec.configurations, spec.matrix_plans, spec.arms
    ):
        if arm.has(dataset, configuration, fold):
            yield dataset, configuration, arm.plans or plans.name, arm, fold, seed


def _cells(spec: Spec) -> Iterator[Cell]:
    for dataset, configuration, plans, arm, fold, seed in _places(spec):
        assert dataset.name is not None, dataset
        yield Cell(dataset.name, configuration, plans, arm.name, trainer_name(spec, arm), fold, seed)


def number_of_cells(spec: Spec) -> int:
    """How many cells there are, before the names of datasets that are to be converted are known."""
    places = _places(spec)
    return len({(data.key, configuration, plans, arm.name, *run) for data, configuration, plans, arm, *run in places})


def arm_of(spec: Spec, cell: Cell) -> Arm:
    """The arm of a cell."""
    return next(arm for arm in spec.arms if arm.name == cell.arm)


def members_of(spec: Spec, cell: Cell) -> list[Cell]:
    """The cells that a cell is an ensemble of; none where it is trained."""
    made = []
    for member in arm_of(spec, cell).ensemble:
        arm = next(one for one in spec.arms if one.name == member.arm)
        made.append(
            replace(
                cell,
                arm=arm.name,
                trainer=trainer_name(spec, arm),
                configuration=member.configuration or cell.configuration,
                plans=arm.plans or cell.plans,
            )
        )
    return made


def dataset_of(spec: Spec, name: str) -> Dataset:
    """The dataset of a full name."""
    return next(dataset for dataset in spec.datasets if dataset.name == name)


def plans_with_options(arm: Arm, plans: str) -> str:
    """Name of the plans file that holds an arm's options; the plans themselves where it has none."""
    if not arm.options:
        return plans
    text = json.dumps([arm.trainer, dict(arm.options)], sort_keys=True)
    return f"{plans}_{arm.name.replace('.', '-').replace('+', '-')}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def preparations(spec: Spec) -> list[str]:
    """What a dataset is prepared for: each configuration of each plans file, those that hold options included."""
    names = {plans.name for plans in spec.all_plans}
    names |= {plans_with_options(arm, arm.plans or name) for name in sorted(names) for arm in spec.arms}
    return sorted(f"{name}/{configuration}" for name in names for configuration in spec.configurations)


def cell_key(cell: Cell) -> str:
    """A cell as jobs are told it: its folder below ``cells``."""
    return cell.folder(Path()).relative_to(CELLS).as_posix()


def find_cell(spec: Spec, key: str) -> Cell:
    """The cell of a key.

    Raises:
        UserError: the benchmark has none.
    """
    for cell in cells_of(spec):
        if cell_key(cell) == key.strip("/"):
            return cell
    raise UserError(f"{spec.name} has no cell {key}: nnunet-ext benchmark status lists them.")
