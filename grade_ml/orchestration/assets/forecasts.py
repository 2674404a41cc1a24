"""The group `forecasts`: remaining scores, risk periods, interventions and anomalies."""

from dagster import MaterializeResult

from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.queue import ML_TASKS
from grade_ml.orchestration.reporting import forecasts as reporting
from grade_ml.orchestration.resources import Platform

#: The assets from which panels of running sections are made.
_PANELS = ["grade_snapshots", "score_sequences", "sections"]


@course_asset(
    group_name="forecasts",
    deps=["trajectory_model", *_PANELS],
    kinds={"lightgbm", "tensorflow", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "forecasts.assignment_forecast"},
    check_specs=[complete("trajectory_forecasts")],
)
def trajectory_forecasts(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Forecast each remaining score of each running enrollment, with calibrated bands."""
    from grade_ml.serving.forecasts import forecast_running, serving

    with platform.workspace() as workspace:
        served = serving(workspace)
        forecasts = forecast_running(workspace, courses.keys, served)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "model_version": served.version,
            **reporting.of_forecasts(forecasts, courses),
        },
        check_results=[is_complete(forecasts.degraded)],
    )


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts", "trajectory_model", *_PANELS],
    kinds={"scipy", "matplotlib", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "forecasts.risk_period"},
    check_specs=[complete("risk_periods")],
)
def risk_periods(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Find the weeks in which a student is likelier than not to fall behind, and why."""
    from grade_ml.early_warning.nightly import keep_periods

    with platform.workspace() as workspace:
        outlook = keep_periods(workspace, courses.keys)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **reporting.of_periods(outlook, courses)},
        check_results=[is_complete(outlook.degraded)],
    )


@course_asset(
    group_name="forecasts",
    deps=["risk_periods", "experiment_assignments"],
    kinds={"csv", "postgres"},
    owners=["team:ml-engineering"],
    code_version="2",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "forecasts.intervention"},
    check_specs=[complete("interventions")],
)
def interventions(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Plan the interventions of this week for risk periods, and list those without time.

    If an experiment compares interventions, the arm of a student selects the table; interventions
    that an arm withholds are listed, with the reason.
    """
    from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
    from grade_ml.early_warning.nightly import keep_interventions
    from grade_ml.experiments.actions import actions, expose

    rules = read_table(platform.settings.interventions or DEFAULT_TABLE)
    load = platform.settings.adviser_load
    with platform.workspace() as workspace:
        exposures = actions(workspace, courses.keys, rules)
        planned = keep_interventions(workspace, courses.keys, rules, load, exposures.exceptions)
        expose(workspace, exposures)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "rules": len(rules),
            "exposed": reporting.of_exposures(exposures),
            **reporting.of_interventions(planned, courses, load),
        },
        check_results=[is_complete(exposures.skipped)],
    )


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts", "trajectory_model", *_PANELS],
    kinds={"scipy", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    pool=ML_TASKS,
    metadata={"dagster/table_name": "forecasts.anomaly"},
)
def performance_anomalies(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """List events of the last days that the forecast of a student made unlikely."""
    from grade_ml.early_warning.nightly import keep_anomalies

    with platform.workspace() as workspace:
        anomalies = keep_anomalies(workspace, courses.keys)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **reporting.of_anomalies(anomalies, courses)}
    )


FORECAST_ASSETS = [trajectory_forecasts, risk_periods, interventions, performance_anomalies]
