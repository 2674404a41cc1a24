"""Dagster's instance of one installation: its home, made ready, and the runs that died in it.

dagster.yaml beside this module configures the instance; workspace.yaml names the module of the
definitions. The repository has copies in its top folder, where Dagster's own commands look.
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
from grade_ml.orchestration.queue import limit_pools
from grade_ml.orchestration.recorded import PROCESS_TAG, process_of

#: In Dagster's home. With the second, a bare `dagster dev` works there.
_FILES = ("dagster.yaml", "workspace.yaml")
KILLED = "The process of this run was killed."


def open_instance(settings: Settings) -> DagsterInstance:
    """Return the instance; it holds the embedded server if its tables are there.

    The `dagster` database is that of this process's environment, as for every Dagster process.

    Raises
    ------
    ServiceError
        The `dagster` database does not answer; Dagster itself would try five times, and longer.
    """
    database.require_answer(database.start(settings).dagster)
    instance = DagsterInstance.from_config(str(prepare_home(settings)))
    limit_pools(instance, settings)
    return instance


def prepare_home(settings: Settings) -> Path:
    """Make Dagster's home with its dagster.yaml and workspace.yaml and return it.

    They are links to the files of the package, so that a new version takes effect at once; a file
    that a user put there stays.

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
    """Link `place` to the package's `source`, unless a user put another file there."""
    if place.is_symlink():
        target = place.readlink()
        # A link to the former place of the package, or of the repository.
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
    # The file exists at every moment: without it Dagster would use a database of its own.
    draft.replace(place)


def process_tag(process: Identity | None = None) -> dict[str, str]:
    """Return the tag of a run that happens in `process`, by default in this process."""
    process = process or Identity.of(os.getpid())
    return {PROCESS_TAG: f"{process.pid} {process.created} {platform.node()}"}


def is_dead(run: DagsterRun) -> bool:
    """Return whether the process of a run that has not ended was killed."""
    process = process_of(run.tags)
    return process is not None and not process.is_alive()


def end_dead_runs(instance: DagsterInstance) -> int:
    """Report the runs whose process was killed as failed, and return their number.

    The daemon does so, too, while it runs. Until then such a run holds its place in the queue and
    in its pools.
    """
    filters = RunsFilter(statuses=[*IN_PROGRESS_RUN_STATUSES, DagsterRunStatus.NOT_STARTED])
    dead = [run for run in instance.get_runs(filters) if is_dead(run)]
    for run in dead:
        reason = JobFailureData(error=None, failure_reason=RunFailureReason.UNEXPECTED_TERMINATION)
        instance.report_run_failed(run, KILLED, reason)
    return len(dead)
