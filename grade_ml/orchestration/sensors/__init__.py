"""The sensors, which act when the gradebook changes, a model drifts, or a run fails.

Each evaluates in well under a second: a few queries, no model, no frame. Pure functions decide,
beside the sensors if the decision is about runs, otherwise in the package of the subject.
"""

from dagster import JobDefinition, SensorDefinition

from grade_ml.core.settings import AlertSettings, Settings
from grade_ml.orchestration.sensors.alerts import alert_sensors
from grade_ml.orchestration.sensors.gradebook import course_catalog, gradebook_changes
from grade_ml.orchestration.sensors.inbox import inbox_sensor
from grade_ml.orchestration.sensors.results import job_results
from grade_ml.orchestration.sensors.retraining import drift_retraining


def sensors(
    settings: Settings, alerts: AlertSettings, first_day: JobDefinition
) -> list[SensorDefinition]:
    """Return the sensors of an installation."""
    return [
        *alert_sensors(alerts),
        course_catalog,
        drift_retraining,
        gradebook_changes(first_day),
        inbox_sensor(settings),
        job_results,
    ]
