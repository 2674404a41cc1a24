"""The queue of runs: how many run at once, how long each may take, which never run again.

Named in dagster.yaml, so that every Dagster process reads the limits from the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRun, RunsFilter
from dagster._core.run_coordinator import QueuedRunCoordinator, SubmitRunContext
from dagster._core.run_coordinator.queued_run_coordinator import RunQueueConfig
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster._core.storage.tags import MAX_RETRIES_TAG, MAX_RUNTIME_SECONDS_TAG
from dagster._serdes import ConfigurableClassData

from grade_ml.core.errors import ConfigurationError
from grade_ml.core.settings import AlertSettings, RetentionSettings, Settings
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook import institution
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml.maintenance.results import PART_OF
from grade_ml.orchestration.configurable import WithoutOptions
from grade_ml.orchestration.job_descriptions import JOB_DESCRIPTIONS

#: The pool of the assets that train, forecast or explain, and the tag of the jobs that have some.
ML_TASKS = "ml_tasks"
#: One run at a time moves experiments; it does not wait for trainings: the stages have a lock.
EXPERIMENTS = "experiments"
#: One clean-up at a time.
MAINTENANCE = "maintenance"
#: Two simultaneous runs of jobs that run jobs would wait for each other's pools and do everything
#: twice.
SEQUENCES = "sequences"
IN_ML_TASKS = {"grade_ml/queue": ML_TASKS}
#: The longest hours of a run by job, unless GRADE_ML_RUN_HOURS sets others. The nightly jobs
#: begin an hour apart: one that takes three hangs, or should not continue into the day.
HOURS = {
    # A training, forecasts and explanations of three hours each, and the rest.
    "first_day": 12.0,
    "generate_time_series_forecasts": 3.0,
    "retrain_drifted_courses": 1.0,
    "train_advanced_ml_models": 3.0,
    "update_model_explanations": 3.0,
}
_OTHER_HOURS = 4.0
#: The tag of a run that will fail in the same way the next time.
NOT_AGAIN = {MAX_RETRIES_TAG: "0"}


def time_limit(job: str, settings: Settings) -> dict[str, str]:
    """Return the tag by which Dagster ends a run of a job that takes too long."""
    hours = settings.run_hours.get(job, HOURS.get(job, _OTHER_HOURS))
    return {MAX_RUNTIME_SECONDS_TAG: str(round(3600 * hours))}


def require_settings() -> None:
    """Read all settings that the process of a run reads when it begins.

    Raises
    ------
    ConfigurationError
        A setting cannot be used; the run would fail, and its log would not give the reason.
    """
    settings = Settings.from_environment()
    require_jobs(settings)
    institution.read(settings.institution)
    for kind in (ExternalSettings, OneRosterSettings, AlertSettings, RetentionSettings):
        kind.from_environment()


def require_jobs(settings: Settings) -> None:
    """Raise `ConfigurationError` if GRADE_ML_RUN_HOURS names a job that does not exist."""
    if unknown := sorted(set(settings.run_hours) - set(JOB_DESCRIPTIONS)):
        raise ConfigurationError(
            f"GRADE_ML_RUN_HOURS names no job: {', '.join(unknown)}.",
            f"Known jobs: {', '.join(sorted(JOB_DESCRIPTIONS))}.",
        )


def places(settings: Settings) -> dict[str, int]:
    """Return how many steps, or runs, may be in each pool at once."""
    return {ML_TASKS: settings.run_ml_tasks} | dict.fromkeys(
        (EXPERIMENTS, MAINTENANCE, SEQUENCES), 1
    )


def limit_pools(instance: DagsterInstance, settings: Settings) -> None:
    """Limit the pool `ml_tasks` to the number of runs of the settings, and the others to one.

    Dagster gives a new pool its default limit only after it has let in all waiting runs: two weekly
    runs ran at the same time.
    """
    storage = instance.event_log_storage
    limits = {pool.name: pool.limit for pool in storage.get_pool_limits()}
    for pool, limit in places(settings).items():
        if limits.get(pool) != limit:
            storage.set_concurrency_slots(pool, limit)


class RunQueue(WithoutOptions, QueuedRunCoordinator[Any]):
    """Dagster's queue with the limits of the settings."""

    def __init__(self, settings: Settings, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(max_concurrent_runs=settings.run_at_once, inst_data=inst_data)
        self._settings = settings

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> RunQueue:
        """Return the queue."""
        return cls(Settings.from_environment(), inst_data)

    def get_run_queue_config(self) -> RunQueueConfig:
        """Return the limits of the queue; a run that is part of another run takes no place."""
        config = super().get_run_queue_config()
        running = self._instance.get_runs(RunsFilter(statuses=IN_PROGRESS_RUN_STATUSES))
        parts = sum(PART_OF in run.tags for run in running)
        return config._replace(max_concurrent_runs=config.max_concurrent_runs + parts)

    def submit_run(self, context: SubmitRunContext) -> DagsterRun:
        """Put a run into the queue, with its time limit."""
        run = context.dagster_run
        if MAX_RUNTIME_SECONDS_TAG not in run.tags:
            self._instance.add_run_tags(run.run_id, time_limit(run.job_name, self._settings))
        return super().submit_run(context)
