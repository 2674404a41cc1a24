"""The launcher of runs: each has a process of its own that survives daemon and code server.

Named in dagster.yaml. Dagster's default launcher starts runs in the code server, which alone knows
whether they live: if it is killed, or the machine, its runs stay "started" for ever. Here a tag of
the run names its process, so that any process can check whether it lives; the daemon does so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from dagster import DagsterRun
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.process import Identity
from grade_ml.orchestration.configurable import WithoutOptions
from grade_ml.orchestration.instance import KILLED, is_dead, process_tag
from grade_ml.orchestration.queue import NOT_AGAIN, require_settings
from grade_ml.orchestration.recorded import process_of


class ProcessLauncher(WithoutOptions, RunLauncher[Any], ConfigurableClass):
    """Starts a process for each run, watches it, and can end it."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        #: Kept because a process that has ended disappears only once its parent polls it.
        self._processes: list[subprocess.Popen[bytes]] = []
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """Return the entry of dagster.yaml."""
        return self._inst_data

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> ProcessLauncher:
        """Return the launcher."""
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Start the process of a run and record it.

        Raises
        ------
        ConfigurationError
            A setting cannot be used: the run would end at once. It is not tried again.
        """
        run = context.dagster_run
        try:
            require_settings()
        except ConfigurationError:
            self._instance.add_run_tags(run.run_id, NOT_AGAIN)
            raise
        assert context.job_code_origin
        arguments = ExecuteRunArgs(context.job_code_origin, run.run_id, self._instance.get_ref())
        process = subprocess.Popen(
            (sys.executable, "-P", "-m", "dagster", "api", "execute_run"),
            # Not among the arguments: any user can read those in the list of processes.
            env={**os.environ, "DAGSTER_EXECUTE_RUN_ARGS": serialize_value(arguments)},
            stdin=subprocess.DEVNULL,
        )
        self._processes = [child for child in self._processes if child.poll() is None] + [process]
        self._instance.add_run_tags(run.run_id, process_tag(Identity.of(process.pid)))

    def terminate(self, run_id: str) -> bool:
        """Request the end of a run; a run that is dead is canceled at once."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        process = process_of(run.tags)
        if process is None:
            return False
        if process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM)
        else:
            self._instance.report_run_canceled(run, KILLED)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Return True: the daemon can check whether a run lives."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Return whether the run's process lives; a process of another machine counts as alive."""
        if is_dead(run):
            return CheckRunHealthResult(WorkerStatus.FAILED, KILLED)
        return CheckRunHealthResult(WorkerStatus.RUNNING)
