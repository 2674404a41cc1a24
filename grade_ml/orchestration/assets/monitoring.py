"""The group `monitoring`: drift, performance, concept drift and health of each course's model.

The results lead back to training: the sensor `drift_retraining` requests a training for confirmed
drift, and `course_ensemble` reads the reports.
"""

from dagster import AssetCheckSpec, MaterializeResult

from grade_ml.orchestration.assets.reads import SERVED
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.reporting import monitoring as reporting
from grade_ml.orchestration.resources import Platform

#: Predictions, the records with which they are compared, and the models that made them.
_WATCHED = ["grade_predictions", "sections", "enrollments", "assignments", "results", *SERVED]


@course_asset(
    group_name="monitoring",
    deps=["grade_snapshots", *_WATCHED],
    kinds={"scipy", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.report"},
    check_specs=[
        AssetCheckSpec(
            "data_quality",
            asset="drift_report",
            description="Values, gaps, sizes and delays are like those in training; deviations are "
            "listed by source and load.",
        ),
        complete("drift_report"),
    ],
)
def drift_report(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Compare this week's features and predictions with the same week of the training terms."""
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        reports = nightly.drift(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.metadata_by_course(
            courses, reports, reporting.drift_figures, platform.as_of
        ),
        check_results=[
            reporting.data_quality(reports),
            is_complete(why for report in reports.values() for why in report.degraded),
        ],
    )


@course_asset(
    group_name="monitoring",
    deps=["grade_snapshots", *_WATCHED],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.report"},
)
def performance_report(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Compare realised and expected errors with those on record when the model was promoted."""
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        reports = nightly.performance(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.metadata_by_course(
            courses, reports, reporting.performance_figures, platform.as_of
        )
    )


@course_asset(
    group_name="monitoring",
    deps=["grade_snapshots", *_WATCHED],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.matured_error"},
)
def concept_drift(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Monitor whether scores still agree with the predictions that were made before them.

    The next training of a course whose alarm is confirmed reads these reports.
    """
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        reports = nightly.concept(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.metadata_by_course(
            courses, reports, reporting.concept_figures, platform.as_of
        )
    )


@course_asset(
    group_name="monitoring",
    deps=[
        *("drift_report", "performance_report", "concept_drift"),
        *("grade_predictions", "sections", "enrollments", *SERVED),
    ],
    kinds={"matplotlib", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.report"},
)
def model_health(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Rate the health of each course's model in one number, with reasons, the worst first."""
    from grade_ml.monitoring import health, nightly

    with platform.workspace() as workspace:
        reports = nightly.health(workspace, platform.models, courses.keys)
        order = health.by_need(reports)
        pages = reporting.pages(workspace, order)
        alerts = reporting.alerts(workspace)
    for key, report in reports.items():
        figures = reporting.health_figures(report)
        courses.add_asset_metadata({**figures, **pages.get(key, {})}, partition_key=key)
    as_of = platform.as_of.isoformat()
    return MaterializeResult(
        metadata={"as_of": as_of, **reporting.by_need(order, reports), **alerts}
    )


MONITORING_ASSETS = [drift_report, performance_report, concept_drift, model_health]
