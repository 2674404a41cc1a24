"""Builds the definitions; tests pass other settings here instead of patching."""

from __future__ import annotations

from dagster import Definitions, in_process_executor

from grade_ml.core.clock import Clock
from grade_ml.core.settings import AlertSettings, RetentionSettings, Settings
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml.orchestration.assets.deliveries import gradebook_sync_asset, inbox_deliveries
from grade_ml.orchestration.assets.experiments import EXPERIMENT_ASSETS
from grade_ml.orchestration.assets.explanations import EXPLANATION_ASSETS
from grade_ml.orchestration.assets.external import external_assets
from grade_ml.orchestration.assets.features import FEATURE_ASSETS
from grade_ml.orchestration.assets.forecasts import FORECAST_ASSETS
from grade_ml.orchestration.assets.gradebook import GRADEBOOK_ASSETS
from grade_ml.orchestration.assets.maintenance import cleanup_assets
from grade_ml.orchestration.assets.models import MODEL_ASSETS
from grade_ml.orchestration.assets.monitoring import MONITORING_ASSETS
from grade_ml.orchestration.assets.system_health import system_health_asset
from grade_ml.orchestration.checks import GRADEBOOK_CHECKS
from grade_ml.orchestration.courses import all_courses
from grade_ml.orchestration.deciding import decide_experiment
from grade_ml.orchestration.descriptions import Starters, described
from grade_ml.orchestration.jobs import JOBS, sync_gradebook
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.queue import require_jobs
from grade_ml.orchestration.resources import platform_resource
from grade_ml.orchestration.schedules import NO_SERVER, build_schedules
from grade_ml.orchestration.sensors import sensors
from grade_ml.orchestration.sequences import sequence_job
from grade_ml.orchestration.timetable import FIRST_DAY, WEEKLY

COURSE_ASSETS = [
    definition
    for definition in (
        *FEATURE_ASSETS,
        *MODEL_ASSETS,
        *FORECAST_ASSETS,
        *MONITORING_ASSETS,
        *EXPLANATION_ASSETS,
    )
    if definition.partitions_def == course
]


def build_defs(  # noqa: PLR0913, PLR0917 - one for each kind of settings
    settings: Settings | None = None,
    external: ExternalSettings | None = None,
    server: OneRosterSettings | None = None,
    alerts: AlertSettings | None = None,
    clock: Clock | None = None,
    retention: RetentionSettings | None = None,
) -> Definitions:
    """Return all definitions for Dagster; nothing is connected.

    Raises
    ------
    ConfigurationError
        A setting has a value that cannot be used.
    """
    settings = settings or Settings.from_environment()
    external = external or ExternalSettings.from_environment()
    server = server or OneRosterSettings.from_environment()
    require_jobs(settings)
    idle = {} if server.url else {sync_gradebook.name: NO_SERVER}
    platform = platform_resource(settings, clock or Clock())
    first_day, weekly = (
        sequence_job(sequence, lambda: together, platform, idle) for sequence in (FIRST_DAY, WEEKLY)
    )
    schedules = build_schedules(settings, server)
    watching = sensors(settings, alerts or AlertSettings.from_environment(), first_day)
    assets = [
        inbox_deliveries,
        gradebook_sync_asset(server),
        *GRADEBOOK_ASSETS,
        *external_assets(settings.timezone, external),
        *FEATURE_ASSETS,
        *MODEL_ASSETS,
        *FORECAST_ASSETS,
        *MONITORING_ASSETS,
        *EXPERIMENT_ASSETS,
        *EXPLANATION_ASSETS,
        *cleanup_assets(retention or RetentionSettings.from_environment()),
        system_health_asset(has_inbox=settings.inbox is not None),
    ]
    together = Definitions(
        assets=described(assets, JOBS, (FIRST_DAY, WEEKLY), Starters(schedules, watching)),
        asset_checks=[*GRADEBOOK_CHECKS, *map(all_courses, COURSE_ASSETS)],
        jobs=[*JOBS, decide_experiment, first_day, weekly],
        schedules=schedules,
        sensors=watching,
        resources={"platform": platform},
        # Starting a process for each step costs more than most steps take.
        executor=in_process_executor,
    )
    return together
