"""Snakemake on the jobs of a benchmark, in a process of its own: ``python -m nnunet_ext.benchmark.engine WORK``.

The only module that imports Snakemake. The settings come as JSON on standard input, the log goes to standard output.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENGINE_LOCK = ".engine.lock"


@dataclass(frozen=True)
class Settings:
    """How Snakemake runs the jobs.

    Attributes:
        target: ``all``, ``trained`` or ``prepared``.
        cores: of this machine.
        gpus: of this machine that are shared out.
        retries: of a failed job.
        executor: ``local`` or ``slurm``.
        jobs: at a time on a cluster.
        poll_seconds: between two looks at a cluster's queue.
        prefix: of the names of cluster jobs.
        cluster: partition, account, qos and the like.
    """

    target: str = "all"
    cores: int = 1
    gpus: int = 0
    retries: int = 2
    executor: str = "local"
    jobs: int = 100
    poll_seconds: int = 20
    prefix: str = ""
    cluster: dict[str, str] | None = None


def execute(work: Path, settings: Settings) -> bool:
    """Do all jobs that are not done; whether all went well."""
    from snakemake.api import SnakemakeApi
    from snakemake.exceptions import WorkflowError
    from snakemake.scheduling.greedy import SchedulerSettings
    from snakemake.settings.enums import RerunTrigger
    from snakemake.settings.types import (
        DAGSettings,
        ExecutionSettings,
        OutputSettings,
        RemoteExecutionSettings,
        ResourceSettings,
        SchedulingSettings,
    )

    on_cluster = settings.executor != "local"
    resources: dict[str, Any] = {} if on_cluster else {"gpu": settings.gpus}
    defaults = {f"slurm_{name}": value for name, value in (settings.cluster or {}).items() if name != "qos"}
    with SnakemakeApi(OutputSettings(nocolor=True, printshellcmds=True, stdout=True)) as api:
        try:
            workflow = api.workflow(
                resource_settings=ResourceSettings(
                    cores=None if on_cluster else settings.cores,
                    nodes=settings.jobs if on_cluster else None,
                    local_cores=settings.cores,
                    resources=resources,
                    default_resources=defaults or None,
                ),
                snakefile=Path(__file__).with_name("Snakefile"),
                workdir=work,
            )
            # What is done stays done when the Snakefile of a new version reads otherwise.
            dag = workflow.dag(
                DAGSettings(
                    targets={settings.target},
                    force_incomplete=True,
                    rerun_triggers=frozenset({RerunTrigger.MTIME, RerunTrigger.INPUT}),
                )
            )
            dag.execute_workflow(
                executor=settings.executor,
                execution_settings=ExecutionSettings(
                    keep_going=True,
                    retries=settings.retries,
                    lock=False,  # a lock of our own ends with its process
                    latency_wait=30 if on_cluster else 3,
                ),
                remote_execution_settings=RemoteExecutionSettings(
                    seconds_between_status_checks=settings.poll_seconds, job_deploy_sources=False
                ),
                scheduling_settings=SchedulingSettings(scheduler="greedy"),
                scheduler_settings=SchedulerSettings(),
                executor_settings=_cluster_settings(settings) if on_cluster else None,
            )
        except WorkflowError as error:
            api.print_exception(error)
            return False
    return True


def _cluster_settings(settings: Settings) -> Any:
    from snakemake_executor_plugin_slurm import ExecutorSettings

    from nnunet_ext.benchmark.slurm import has_accounting

    return ExecutorSettings(
        jobname_prefix=settings.prefix,
        init_seconds_before_status_checks=min(settings.poll_seconds, 40),
        keep_successful_logs=True,
        no_account="account" not in (settings.cluster or {}),
        qos=(settings.cluster or {}).get("qos"),
        status_command="sacct" if has_accounting() else "squeue",
    )


def main(work: Path) -> int:
    """Run with the settings on standard input; gives the exit code."""
    from filelock import FileLock, Timeout

    _end_with_parent()
    settings = Settings(**json.load(sys.stdin))
    try:
        with FileLock(work / ENGINE_LOCK).acquire(timeout=60):
            return 0 if execute(work, settings) else 1
    except Timeout:
        print("another engine works here", file=sys.stderr)
        return 1


def _end_with_parent() -> None:
    """End with the driver, even where that is killed; jobs go on, and their successors wait for them."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == 1:  # it was killed before
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute()))
