"""``--small``: a benchmark of public datasets on the phantom in their official layouts, from end to end in minutes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nnunet_ext.benchmark.spec import DEFAULT_PLANS, Arm, Dataset, Plans, Resources, Spec
from nnunet_ext.core.environment import FOLDER_VARIABLES
from nnunet_ext.core.errors import UserError

PLANS = "smallPlans"
_FEATURES = (4, 8, 8, 8, 8, 8, 8, 8)
_WRITTEN = "written"
# Options of trainers whose networks are not those of the plans.
_NARROW = {"coarse_features": [4, 4, 8, 8], "fine_features": [4, 4, 8, 8], "channels": 8, "max_rounds": 2}
# Trainers that need pretrained weights start from random ones.
_RANDOM_WEIGHTS = {"NNUNET_EXT_VGG19": "random", "NNUNET_EXT_RESNET18": "random"}


def shrink(spec: Spec, work: Path) -> Spec:
    """The same arms on few phantoms: tiny networks, one epoch of one iteration, the first fold and seed, one core.

    Writes the phantoms into the work folder and sets nnU-Net's folders to some in there.

    Raises:
        UserError: a dataset is not converted, so that there is no layout to write.
    """
    os.environ.update(_RANDOM_WEIGHTS)
    for variable in FOLDER_VARIABLES:
        (work / variable).mkdir(parents=True, exist_ok=True)
        os.environ[variable] = str(work / variable)
    return replace(
        spec,
        datasets=tuple(_with_phantom(dataset, work / "sources") for dataset in spec.datasets),
        plans=(
            Plans(PLANS, derived_from=DEFAULT_PLANS, batch_size=2, features=_FEATURES),
            *(
                Plans(f"{PLANS}_view{view}", derived_from=PLANS, batch_size=2, features=_FEATURES, view=view)
                for view in sorted({plans.view for plans in spec.plans if plans.view})
            ),
        ),
        epochs=1,
        iterations=1,
        arms=tuple(_shrunk(arm, spec) for arm in spec.arms),
        folds=spec.folds[:1],
        seeds=spec.seeds[:1],
        resources=Resources(1, 2.0, 0, 1.0),
    )


def _shrunk(arm: Arm, spec: Spec) -> Arm:
    """An arm without a run length of its own, with narrow networks where their width is an option."""
    from nnunet_ext.plugin.lookup import find_trainer
    from nnunet_ext.training.base import ExtendedTrainer
    from nnunet_ext.training.options import types_of

    view = None if arm.plans is None else spec.plans_named(arm.plans).view
    arm = replace(arm, epochs=None, iterations=None, plans=f"{PLANS}_view{view}" if view else None)
    try:
        trainer = find_trainer(arm.trainer)
    except AttributeError:  # an ensemble, or a name that the checks will tell of
        return arm
    if not issubclass(trainer, ExtendedTrainer):
        return arm
    known = types_of(trainer.options_class)
    return replace(arm, options={**arm.options, **{name: _NARROW[name] for name in _NARROW if name in known}})


def _with_phantom(dataset: Dataset, sources: Path) -> Dataset:
    if dataset.convert is None:
        raise UserError(f"--small needs datasets that are converted, and dataset {dataset.key} has no 'convert:'.")
    after = tuple(_with_phantom(part, sources) for part in dataset.after)
    if dataset.source is None:
        return replace(dataset, after=after)
    folder = sources / dataset.convert
    if not (sources / f"{dataset.convert}.{_WRITTEN}").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        _WRITERS[dataset.convert](folder)
        (sources / f"{dataset.convert}.{_WRITTEN}").touch()
    return replace(dataset, source=folder, after=after)


def _msd(folder: Path) -> None:
    from nnunet_ext.phantom.msd import write_msd

    write_msd(folder, task="Task09_Spleen", cases=24, test_cases=1, organs=("spleen",), seed=9)


def _nih_pancreas(folder: Path) -> None:
    from nnunet_ext.phantom.nih_pancreas import write_nih_pancreas

    write_nih_pancreas(folder, numbers=(1, 2, 21, 22, 41, 42, 62, 63), seed=1)


def _sliver07(folder: Path) -> None:
    from nnunet_ext.phantom.sliver07 import write_sliver07

    write_sliver07(folder, numbers=(1, 2, 3, 4, 5), seed=2)


def _lits(folder: Path) -> None:
    from nnunet_ext.phantom.lits import write_lits

    write_lits(folder, numbers=tuple(range(12)), seed=3)


def _chaos(part: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from nnunet_ext.phantom.chaos import write_chaos

        write_chaos(folder, part, seed=4)

    return write


def _btcv(folder: Path) -> None:
    from nnunet_ext.phantom.btcv import write_btcv

    write_btcv(folder, numbers=(1, 2, 7, 8, 23, 24, 29, 30, 35, 36), test_numbers=(), seed=5)


_WRITERS: dict[str, Callable[[Path], None]] = {
    "msd": _msd,
    "nih-pancreas": _nih_pancreas,
    "sliver07": _sliver07,
    "lits": _lits,
    "chaos-ct": _chaos("CT"),
    "chaos-t1dual": _chaos("T1DUAL"),
    "chaos-t2spir": _chaos("T2SPIR"),
    "btcv": _btcv,
}
