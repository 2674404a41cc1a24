"""The sensors: what happens by itself when the gradebook changes, a model drifts, or a run fails.

Each evaluates in well under a second: a few queries, no model, no frame. What they decide is up to
pure functions, beside them where it is about runs, else in the room of the subject.
"""

from dagster import SensorDefinition

from grade_ml.core.settings import Settings
from grade_ml.orchestration.sensors.alerts import health_alerts, run_failure_alerts
from grade_ml.orchestration.sensors.gradebook import course_catalog, gradebook_changes
from grade_ml.orchestration.sensors.inbox import inbox_sensor
from grade_ml.orchestration.sensors.retraining import drift_retraining


def sensors(settings: Settings) -> list[SensorDefinition]:
    """Return the sensors of an installation."""
    return [
        course_catalog,
        drift_retraining,
        gradebook_changes,
        health_alerts,
        inbox_sensor(settings),
        run_failure_alerts,
    ]
