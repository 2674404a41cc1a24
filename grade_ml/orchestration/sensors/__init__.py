"""The sensors: what happens by itself when the gradebook changes, a model drifts, or a run fails.

Each evaluates in well under a second: a few queries, no model, no frame. What they decide is up to
pure functions, beside them where it is about runs, else in the room of the subject.
"""

from dagster import SensorDefinition

from grade_ml.core.settings import AlertSettings, Settings
from grade_ml.orchestration.sensors.alerts import alert_sensors
from grade_ml.orchestration.sensors.gradebook import course_catalog, gradebook_changes
from grade_ml.orchestration.sensors.inbox import inbox_sensor
from grade_ml.orchestration.sensors.retraining import drift_retraining


def sensors(settings: Settings, alerts: AlertSettings) -> list[SensorDefinition]:
    """Return the sensors of an installation."""
    return [
        *alert_sensors(alerts),
        course_catalog,
        drift_retraining,
        gradebook_changes,
        inbox_sensor(settings),
    ]
