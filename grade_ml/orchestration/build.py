"""Puts the definitions together; tests give other settings here instead of patching."""

from __future__ import annotations

from dagster import Definitions, in_process_executor

from grade_ml.core.clock import Clock
from grade_ml.core.settings import AlertSettings, Settings
from grade_ml.external.settings import ExternalSettings
from grade_ml.gradebook.rest.settings import OneRosterSettings
from grade_ml.orchestration.assets.deliveries import gradebook_sync_asset, inbox_deliveries
from grade_ml.orchestration.assets.experiments import EXPERIMENT_ASSETS
from grade_ml.orchestration.assets.explanations import EXPLANATION_ASSETS
from grade_ml.orchestration.assets.external import external_assets
from grade_ml.orchestration.assets.features import FEATURE_ASSETS
from grade_ml.orchestration.assets.forecasts import FORECAST_ASSETS
from grade_ml.orchestration.assets.gradebook import GRADEBOOK_ASSETS
from grade_ml.orchestration.assets.models import MODEL_ASSETS
from grade_ml.orchestration.assets.monitoring import MONITORING_ASSETS
from grade_ml.orchestration.checks import GRADEBOOK_CHECKS
from grade_ml.orchestration.courses import all_courses
from grade_ml.orchestration.deciding import decide_experiment
from grade_ml.orchestration.jobs import JOBS
from grade_ml.orchestration.partitions import course
from grade_ml.orchestration.resources import platform_resource
from grade_ml.orchestration.schedules import build_schedules
from grade_ml.orchestration.sensors import sensors

COURSE_ASSETS = [
    one
    for one in (
        *FEATURE_ASSETS,
        *MODEL_ASSETS,
        *FORECAST_ASSETS,
        *MONITORING_ASSETS,
        *EXPLANATION_ASSETS,
    )
    if one.partitions_def == course
]


def build_defs(
    settings: Settings | None = None,
    external: ExternalSettings | None = None,
    server: OneRosterSettings | None = None,
    alerts: AlertSettings | None = None,
    clock: Clock | None = None,
) -> Definitions:
    """Return everything that Dagster is to know; nothing is connected to.

    Raises
    ------
    ConfigurationError
        A setting has a value that cannot be used.
    """
    settings = settings or Settings.from_environment()
    external = external or ExternalSettings.from_environment()
    server = server or OneRosterSettings.from_environment()
    return Definitions(
        assets=[
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
        ],
        asset_checks=[*GRADEBOOK_CHECKS, *map(all_courses, COURSE_ASSETS)],
        jobs=[*JOBS, decide_experiment],
        schedules=build_schedules(settings, server),
        sensors=sensors(settings, alerts or AlertSettings.from_environment()),
        resources={"platform": platform_resource(settings, clock or Clock())},
        # Starting a process for each step costs more than most steps take.
        executor=in_process_executor,
    )
