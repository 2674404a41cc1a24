"""The group `forecasts`: every score that is still to come, and what follows from it."""

from dagster import MaterializeResult

from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.reporting import forecasts as reporting
from grade_ml.orchestration.resources import Platform

#: What panels of running sections are made of.
_PANELS = ["grade_snapshots", "score_sequences", "sections"]


@course_asset(
    group_name="forecasts",
    deps=["trajectory_model", *_PANELS],
    kinds={"lightgbm", "tensorflow", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.assignment_forecast"},
    check_specs=[complete("trajectory_forecasts")],
)
def trajectory_forecasts(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Forecast each remaining score of each running enrollment, with bands that hold."""
    from grade_ml.serving.forecasts import forecast_running, serving

    with platform.workspace() as workspace:
        served = serving(workspace)
        found = forecast_running(workspace, courses.keys, served)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "model_version": served.version,
            **reporting.of_forecasts(found, courses),
        },
        check_results=[is_complete(found.degraded)],
    )


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts", "trajectory_model", *_PANELS],
    kinds={"scipy", "matplotlib", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.risk_period"},
    check_specs=[complete("risk_periods")],
)
def risk_periods(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Find the weeks in which a student is likelier than not to fall behind, and why."""
    from grade_ml.early_warning.nightly import keep_periods

    with platform.workspace() as workspace:
        found = keep_periods(workspace, courses.keys)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **reporting.of_periods(found, courses)},
        check_results=[is_complete(found.degraded)],
    )


@course_asset(
    group_name="forecasts",
    deps=["risk_periods", "experiment_assignments"],
    kinds={"csv", "postgres"},
    owners=["team:ml-engineering"],
    code_version="2",
    metadata={"dagster/table_name": "forecasts.intervention"},
    check_specs=[complete("interventions")],
)
def interventions(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Plan who may do what this week about risk periods, and list what there is no time for.

    Where an experiment asks what helps, each student's arm says which table holds; what an arm
    withholds is listed, with the reason.
    """
    from grade_ml.early_warning.interventions import DEFAULT_TABLE, read_table
    from grade_ml.early_warning.nightly import keep_interventions
    from grade_ml.experiments.actions import actions, expose

    rules = read_table(platform.settings.interventions or DEFAULT_TABLE)
    load = platform.settings.adviser_load
    with platform.workspace() as workspace:
        wanted = actions(workspace, courses.keys, rules)
        found = keep_interventions(workspace, courses.keys, rules, load, wanted.exceptions)
        expose(workspace, wanted)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "rules": len(rules),
            "exposed": reporting.of_exposures(wanted),
            **reporting.of_interventions(found, courses, load),
        },
        check_results=[is_complete(wanted.skipped)],
    )


@course_asset(
    group_name="forecasts",
    deps=["trajectory_forecasts", "trajectory_model", *_PANELS],
    kinds={"scipy", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "forecasts.anomaly"},
)
def performance_anomalies(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Tell what happened in the last days that was not to be expected of a student."""
    from grade_ml.early_warning.nightly import keep_anomalies

    with platform.workspace() as workspace:
        found = keep_anomalies(workspace, courses.keys)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **reporting.of_anomalies(found, courses)}
    )


FORECAST_ASSETS = [trajectory_forecasts, risk_periods, interventions, performance_anomalies]
