"""Dagster's instance of one installation: its home, made ready, and the runs that died in it.

What the instance is made of stands in dagster.yaml at the top of the repository.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from dagster import DagsterInstance, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import GRPC_INFO_TAG

from grade_ml.core.permissions import make_private
from grade_ml.core.settings import REPOSITORY, Settings
from grade_ml.core.storage import require_writable

PROCESS_TAG = "grade_ml/process"


def open_instance(settings: Settings) -> DagsterInstance:
    """Return the instance; it holds the embedded server if its tables lie there.

    The `dagster` database is that of this process's environment, as for every Dagster process.
    """
    return DagsterInstance.from_config(str(prepare_home(settings)))


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's home with its dagster.yaml and return it.

    The file is a link to the repository's, so that a new version of it counts at once; a file
    that somebody put there stays.

    Raises
    ------
    ConfigurationError
        The folder cannot be written.
    """
    home = settings.dagster_home or settings.home / "dagster"
    variable = "DAGSTER_HOME" if settings.dagster_home else "GRADE_ML_HOME"
    require_writable(home, f"Set {variable} to a folder that can be written.")
    make_private(home)
    target, link = REPOSITORY / "dagster.yaml", home / "dagster.yaml"
    if link.is_symlink() and not link.exists():
        link.unlink()  # the repository has moved
    try:
        with suppress(FileExistsError):  # another process was first
            if not link.exists():
                link.symlink_to(target)
    except OSError:  # a file system without links
        shutil.copyfile(target, link)
    return home


def process_tag() -> dict[str, str]:
    """Return the tag of a run that happens in this process; see `fail_abandoned_runs`."""
    process = psutil.Process()
    return {PROCESS_TAG: f"{process.pid} {process.create_time()}"}


def fail_abandoned_runs(instance: DagsterInstance) -> int:
    """Report the runs as failed whose process was killed and return their number.

    Nobody else does: such a run would keep its place in the queue until its maximum run time.
    """
    abandoned = [
        run
        for run in instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
        if _is_abandoned(run.tags)
    ]
    for run in abandoned:
        reason = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
        instance.report_run_failed(run, "The process of this run was killed.", reason)
    return len(abandoned)


def _is_abandoned(tags: Mapping[str, str]) -> bool:
    if PROCESS_TAG in tags:
        pid, created = tags[PROCESS_TAG].split()
        try:
            return psutil.Process(int(pid)).create_time() != float(created)
        except psutil.NoSuchProcess:
            return True
    # A code server reports the end of its own runs; one that does not answer takes them along.
    address = json.loads(tags.get(GRPC_INFO_TAG, "{}")).get("socket")
    return address is not None and not _answers(address)


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(address)
        except OSError:
            return False
    return True
