"""Dagster's instance of one installation: its home, made ready, and the runs that died in it.

What the instance is made of is in dagster.yaml beside this module, and where the definitions
are in workspace.yaml. The repository has copies at its top, where Dagster's own commands look.
"""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from dagster import DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.events import JobFailureData, RunFailureReason
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from grade_ml.core import database
from grade_ml.core.permissions import make_private
from grade_ml.core.process import Identity
from grade_ml.core.settings import Settings
from grade_ml.core.storage import require_writable

#: In Dagster's home. With the second, a bare `dagster dev` works there.
_FILES = ("dagster.yaml", "workspace.yaml")
#: The process of a run: its id, when it began, and the machine.
PROCESS_TAG = "grade_ml/process"
KILLED = "The process of this run was killed."


def open_instance(settings: Settings) -> DagsterInstance:
    """Return the instance; it holds the embedded server if its tables lie there.

    The `dagster` database is that of this process's environment, as for every Dagster process.

    Raises
    ------
    ServiceError
        The `dagster` database does not answer; Dagster itself would try five times, and longer.
    """
    database.require_answer(database.start(settings).dagster)
    return DagsterInstance.from_config(str(prepare_home(settings)))


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's home with its dagster.yaml and workspace.yaml and return it.

    They are links to the package's, so that a new version counts at once; a file that somebody put
    there stays.

    Raises
    ------
    ConfigurationError
        The folder cannot be written.
    """
    home = settings.dagster_home or settings.home / "dagster"
    variable = "DAGSTER_HOME" if settings.dagster_home else "GRADE_ML_HOME"
    require_writable(home, f"Set {variable} to a folder that can be written.")
    make_private(home)
    for name in _FILES:
        _provide(Path(__file__).with_name(name), home / name)
    return home


def _provide(source: Path, place: Path) -> None:
    """Link `place` to the package's `source`, unless somebody put another file there."""
    if place.is_symlink():
        target = place.readlink()
        # A link to where the package, or the repository, was before.
        ours = not place.exists() or target.parts[-3:] == source.parts[-3:]
        if target == source or not ours:
            return
    elif place.exists():
        return
    draft = place.with_name(f"{place.name}.{os.getpid()}")
    try:
        draft.symlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, draft)
    # At no moment is there none: Dagster would work on a database of its own.
    draft.replace(place)


def process_tag(process: Identity | None = None) -> dict[str, str]:
    """Return the tag of a run that happens in `process`, by default in this one."""
    process = process or Identity.of(os.getpid())
    return {PROCESS_TAG: f"{process.pid} {process.created} {platform.node()}"}


def process_of(run: DagsterRun) -> Identity | None:
    """Return the process of a run; None where it is not known, or another machine's."""
    pid, created, node = (run.tags.get(PROCESS_TAG, "").split(maxsplit=2) + [""] * 3)[:3]
    return Identity(int(pid), float(created)) if node == platform.node() and pid else None


def is_dead(run: DagsterRun) -> bool:
    """Return whether the process of a run that has not ended was killed."""
    process = process_of(run)
    return process is not None and not process.is_alive()


def end_dead_runs(instance: DagsterInstance) -> int:
    """Report the runs as failed whose process was killed and return their number.

    The daemon does so, too, while it runs. Until then such a run keeps its place in the queue and
    its pools.
    """
    filters = RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, DagsterRunStatus.NOT_STARTED])
    dead = [run for run in instance.get_runs(filters) if is_dead(run)]
    for run in dead:
        reason = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
        instance.report_run_failed(run, KILLED, reason)
    return len(dead)
