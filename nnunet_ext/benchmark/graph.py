"""What the Snakefile asks: which files there will be, and what a job needs. It knows nothing of nnU-Net."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_ext.benchmark.failures import is_of_device_memory
from nnunet_ext.benchmark.matrix import cell_key, cells_of, members_of
from nnunet_ext.benchmark.records import CELLS, RECORD, read_attempts
from nnunet_ext.benchmark.spec import CASCADE, FIRST_STAGE
from nnunet_ext.benchmark.workspace import TRAINED, Workspace

_LARGEST_FACTOR = 4  # times the memory that was asked for
_MINUTES_OF_A_SHORT_JOB = 240
_SECONDS_TO_SAVE = 120  # before the time limit, SLURM asks a job to stop


def seconds_to_save(limit_seconds: float) -> int:
    """How long before its time limit a cluster job is asked to stop."""
    return max(1, int(min(_SECONDS_TO_SAVE, limit_seconds / 4)))


class Graph:
    """The jobs of a benchmark."""

    def __init__(self, space: Workspace) -> None:
        self.space = space
        # Without full names, which datasets have when they are converted, there is no more than their preparation.
        named = all(dataset.name is not None for dataset in space.spec.datasets)
        self.cells = {cell_key(cell): cell for cell in cells_of(space.spec)} if named else {}
        self._positions = {key: position for position, key in enumerate(self.cells)}
        self._keys = {dataset.name: dataset.key for dataset in space.spec.datasets}

    @classmethod
    def open(cls) -> Graph:
        """The graph of the work folder that is the current one, where Snakemake runs."""
        return cls(Workspace.open(Path()))

    def records(self) -> list[str]:
        """All that a whole run makes."""
        return [f"{CELLS}/{key}/{RECORD}" for key in self.cells]

    def trained(self) -> list[str]:
        """All that trainings make."""
        return [f"{CELLS}/{key}/{TRAINED}" for key in self.cells]

    def prepared(self) -> list[str]:
        """All that preparations make."""
        root = self.space.root
        return [self.space.prepared(one.key).relative_to(root).as_posix() for one in self.space.spec.datasets]

    def dataset(self, key: str) -> str:
        """What says that the dataset of a cell is ready."""
        name = self.cells[key].dataset
        return self.space.prepared(self._keys[name]).relative_to(self.space.root).as_posix()

    def before(self, key: str) -> list[str]:
        """Trainings that a cell waits for: those of an ensemble; all folds of the first stage of nnU-Net's cascade."""
        cell = self.cells[key]
        if members := members_of(self.space.spec, cell):
            return [f"{CELLS}/{cell_key(member)}/{TRAINED}" for member in members]
        if cell.configuration != CASCADE:
            return []
        first = replace(cell, configuration=FIRST_STAGE)
        return [
            f"{CELLS}/{other}/{TRAINED}" for other, one in self.cells.items() if replace(one, fold=cell.fold) == first
        ]

    def predicted(self, key: str) -> list[str]:
        """What says that the test sets of a cell's dataset are predicted."""
        tests = self.space.spec.test_sets
        own = [test.name for test in tests if test.dataset in (None, self.cells[key].dataset)]
        return [f"{CELLS}/{key}/predicted_{name}.json" for name in own]

    def priority(self, key: str, trained: bool = False) -> int:
        """Cells go in their order, so that a part of them is a fair comparison; what is trained is finished first."""
        return len(self.cells) - self._positions[key] + (len(self.cells) if trained else 0)

    def memory_mb(self, key: str) -> int:
        """Memory of a training: twice as much for every attempt that lacked it."""
        failures = [attempt.failure for attempt in read_attempts(self.cells[key].folder(self.space.root)).values()]
        short = [f for f in failures if f is not None and f.kind == "out of memory" and not is_of_device_memory(f)]
        return int(self.space.spec.resources.memory_gb * 1024) * min(2 ** len(short), _LARGEST_FACTOR)

    def minutes(self) -> int:
        """Time limit of a training on a cluster."""
        return max(1, round(self.space.spec.resources.hours * 60))

    def short_minutes(self) -> int:
        """Time limit of the other jobs: they are not cut off by one that is meant for trainings."""
        return max(self.minutes(), _MINUTES_OF_A_SHORT_JOB)

    def gpus(self) -> int:
        """GPUs of a training, as far as the run shares out any."""
        run, wanted = self.space.run, self.space.spec.resources.gpus
        return wanted if run.executor == "slurm" or run.gpus else 0

    def scheduler_options(self, key: str) -> str:
        """Further options of a cluster job: asked to stop before the time limit, after another one of its cell."""
        if self.space.run.executor != "slurm":
            return ""
        options = [f"--signal=TERM@{seconds_to_save(self.minutes() * 60)}"]
        others: Sequence[str] = self.space.run.after.get(key, [])
        return " ".join([*options, *([f"--dependency=afterany:{':'.join(others)}"] if others else [])])
