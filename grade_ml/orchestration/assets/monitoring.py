"""The group `monitoring`: drift, performance, concept drift and health of each course's model.

What is found here leads back to training: what is confirmed becomes a request, which the sensor
`drift_retraining` makes, and what scores say of it is given to `course_ensemble`.
"""

from dagster import AssetCheckSpec, MaterializeResult

from grade_ml.orchestration.assets.reads import SERVED
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.reporting import monitoring as reporting
from grade_ml.orchestration.resources import Platform

#: Predictions, the records beside them, and the models that made them.
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
            description="Values, gaps, sizes and delays are such as there have been in training; "
            "what is odd is named by source and load.",
        ),
        complete("drift_report"),
    ],
)
def drift_report(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Compare this week's features and predictions with the same week of the training terms."""
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        found = nightly.drift(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.tell(courses, found, reporting.drift_figures, platform.as_of),
        check_results=[
            reporting.data_quality(found),
            is_complete(why for one in found.values() for why in one.degraded),
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
    """Set realised and expected errors beside those on record when the model was promoted."""
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        found = nightly.performance(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.tell(courses, found, reporting.performance_figures, platform.as_of)
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
    """Watch whether scores still follow from the predictions that were made before them.

    The next training of a course whose alarm is confirmed reads these reports.
    """
    from grade_ml.monitoring import nightly

    with platform.workspace() as workspace:
        found = nightly.concept(workspace, platform.models, courses.keys)
    return MaterializeResult(
        metadata=reporting.tell(courses, found, reporting.concept_figures, platform.as_of)
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
    """Say in one number how each course's model is, why, and which course needs care first."""
    from grade_ml.monitoring import health, nightly

    with platform.workspace() as workspace:
        found = nightly.health(workspace, platform.models, courses.keys)
        order = health.by_need(found)
        pages = reporting.pages(workspace, order)
        alerts = reporting.alerts(workspace)
    for key, one in found.items():
        figures = reporting.health_figures(one)
        courses.add_asset_metadata({**figures, **pages.get(key, {})}, partition_key=key)
    as_of = platform.as_of.isoformat()
    return MaterializeResult(metadata={"as_of": as_of, **reporting.by_need(order, found), **alerts})


MONITORING_ASSETS = [drift_report, performance_report, concept_drift, model_health]
