"""The work folder: what a run writes for its jobs, and where the parts of a cell lie."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nnunet_ext.benchmark.matrix import find_cell, trainer_name
from nnunet_ext.benchmark.records import CELLS, SPECIFICATION, Cell, read_object
from nnunet_ext.benchmark.spec import Spec
from nnunet_ext.benchmark.spec_file import parse
from nnunet_ext.core.errors import UserError
from nnunet_ext.core.files import make_folder, write_text

RUN = "run.json"
PREPARED = "prepared.json"
TRAINED = "trained.json"
GAVE_UP = "gave_up.json"
STATE = ".trained.json"  # as TRAINED, for a successor; not declared, so that no retry deletes it
_DATASETS = "datasets"
_ADVICE = "the work folder of a benchmark is made by nnunet-ext benchmark run"


@dataclass(frozen=True)
class Run:
    """How the benchmark is run now; unlike the specification, it says nothing about results.

    Attributes:
        number: of the run, from 1.
        python: what runs the jobs.
        gpus: devices of this machine that jobs share, by their number; ``None``: the scheduler assigns them.
        device: ``cpu``, ``cuda`` or ``auto``.
        executor: ``local`` or ``slurm``.
        after: ids of running cluster jobs by the cell they work on; a successor waits for its own.
        pretended: seconds of an epoch where trainings are pretended, for tests of the engine.
    """

    number: int = 1
    python: str = "python"
    gpus: tuple[str, ...] | None = None
    device: str = "auto"
    executor: str = "local"
    after: dict[str, list[str]] = field(default_factory=dict)
    pretended: float | None = None


@dataclass(frozen=True)
class Workspace:
    """A work folder with the benchmark in it."""

    root: Path
    spec: Spec
    run: Run

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Read the work folder of a benchmark that was run.

        Raises:
            UserError: nothing was run there.
        """
        root = root.absolute()
        return cls(root, read_specification(root), read_run(root))

    def save(self) -> None:
        """Write what jobs read."""
        make_folder(self.root)
        write_text(self.root / SPECIFICATION, json.dumps(self.spec.to_dict(), indent=2) + "\n")
        write_text(self.root / RUN, json.dumps(asdict(self.run), indent=2) + "\n")

    def prepared(self, dataset: str) -> Path:
        """What says that a dataset is converted, planned and preprocessed; by its number or name."""
        return self.root / _DATASETS / dataset / PREPARED

    def results(self, cell: Cell) -> Path:
        """The ``nnUNet_results`` of a cell, shared by all of its seed, so that folds predict together."""
        return self.root / "models" / f"seed_{cell.seed}"

    def cell(self, key: str) -> Cell:
        """The cell of a key."""
        return find_cell(self.spec, key)

    def check_same_runs(self, spec: Spec) -> None:
        """Refuse another benchmark's work folder.

        Raises:
            UserError: an arm of the same name is another run there, so that cells of two kinds would be mixed.
        """
        here = {arm.name: arm for arm in self.spec.arms}
        for arm in spec.arms:
            old = here.get(arm.name)
            if old is None or not self._has_cells(arm.name):
                continue
            for words, before, now in (
                ("trainer", trainer_name(self.spec, old), trainer_name(spec, arm)),
                ("ensemble", (old.ensemble, old.fuse), (arm.ensemble, arm.fuse)),
                ("options", dict(old.options), dict(arm.options)),
                ("mirroring", self.spec.mirroring, spec.mirroring),
                ("precision", self.spec.precision, spec.precision),
            ):
                if before != now:
                    raise UserError(
                        f"{self.root} has cells of arm {arm.name} with {words} {before}, and {spec.name} says {now}: "
                        "give the arm another name, or choose another folder with --work."
                    )
        details = {plans.name: plans for plans in self.spec.plans}
        for plans in spec.plans:
            if details.get(plans.name, plans) != plans:
                raise UserError(
                    f"{self.root} was made with other plans {plans.name} than {spec.name} describes: give the plans "
                    "another name, or choose another folder with --work."
                )

    def _has_cells(self, arm: str) -> bool:
        return any((self.root / CELLS).glob(f"*/*/*/{arm}/fold_*"))


def read_state(folder: Path) -> dict[str, Any]:
    """What the training of a cell has left of itself in the cell's folder."""
    return read_object(folder / STATE)


def write_state(folder: Path, state: dict[str, Any]) -> None:
    """Write that a cell is trained, and what is needed of it afterwards."""
    write_text(folder / STATE, json.dumps(state, indent=2) + "\n")
    declare_trained(folder)


def declare_trained(folder: Path) -> bool:
    """Say by the declared file too that a cell is trained, which a job before may not have lived to; whether it is."""
    if not (folder / STATE).is_file():
        return False
    write_text(folder / TRAINED, (folder / STATE).read_text(encoding="utf-8"))
    return True


def read_specification(root: Path) -> Spec:
    """The benchmark that was run in a work folder.

    Raises:
        UserError: there is none.
    """
    return parse(read_object(root / SPECIFICATION, _ADVICE), str(root / SPECIFICATION), root)


def read_run(root: Path) -> Run:
    """How it was run last.

    Raises:
        UserError: it was not.
    """
    content = read_object(root / RUN, _ADVICE)
    gpus = content.get("gpus")
    try:
        return Run(**{**content, "gpus": None if gpus is None else tuple(gpus)})
    except TypeError as error:
        raise UserError(
            f"{root / RUN} was written by another version ({error}): choose another work folder."
        ) from error
