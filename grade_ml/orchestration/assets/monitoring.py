"""The group `monitoring`: drift, performance, concept drift and health of each course's model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    MaterializeResult,
    MetadataValue,
    TableRecord,
)

from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    from grade_ml.monitoring.health import Health
    from grade_ml.monitoring.monitor import Monitor

#: Pages and pictures cost half a second each: the courses in most need of a run get them.
PAGES = 20
#: Rows of the table of all courses.
SHOWN = 200


@contextmanager
def _monitor(platform: Platform) -> Iterator["Monitor"]:
    from grade_ml.monitoring.monitor import Monitor

    with platform.connection() as connection:
        root = platform.settings.storage_root
        yield Monitor(
            connection,
            platform.models,
            root,
            platform.as_of,
            institution=platform.institution,
        )


def _result(
    courses: Courses,
    platform: Platform,
    bodies: Mapping[str, Mapping[str, Any]],
    figures: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> MaterializeResult[None]:
    """Tell each course's figures, and of the run how many say something."""
    for key in courses.keys:
        body = bodies[key]
        known = {name: value for name, value in figures(body).items() if value is not None}
        told = {name: str(body[name]) for name in ("status", "reason", "says") if body.get(name)}
        courses.add_asset_metadata({**told, **known}, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "courses": len(courses.keys),
            "notable": sum(bool(bodies[key].get("says")) for key in courses.keys),
        }
    )


@course_asset(
    group_name="monitoring",
    deps=["grade_snapshots", "grade_predictions"],
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
    with _monitor(platform) as monitor:
        bodies = monitor.drift(courses.keys)
    result = _result(courses, platform, bodies, _drift_figures)
    degraded = is_complete(why for body in bodies.values() for why in body["degraded"])
    return result._replace(check_results=[_quality(bodies), degraded])


def _quality(bodies: Mapping[str, Mapping[str, Any]]) -> AssetCheckResult:
    found = {name: body["quality"] for name, body in bodies.items() if body.get("quality")}
    odd = {name: one["violations"] for name, one in found.items() if one["violations"]}
    rows = [
        TableRecord({"course": name, "violation": text})
        for name, texts in sorted(odd.items())
        for text in texts
    ]
    tested = sum(one["tested"] > 0 for one in found.values())
    return AssetCheckResult(
        check_name="data_quality",
        passed=not odd,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "courses_tested": tested,
            "courses_odd": len(odd),
            "violations": plots.table(rows[:SHOWN]),
        },
    )


def _drift_figures(body: Mapping[str, Any]) -> dict[str, Any]:
    features, multivariate = body.get("features"), body.get("multivariate")
    return {
        "drifted": body["drifted"],
        "drifted_features": None if features is None else int(features["drifted"].sum()),
        "told_apart_auc": multivariate.auc if multivariate else None,
        "reference_rows": body.get("reference_rows"),
        "current_rows": body.get("current_rows"),
        "degraded": list(body["degraded"]),
    }


@course_asset(
    group_name="monitoring",
    deps=["grade_predictions", "enrollments", "assignments", "results"],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.report"},
)
def performance_report(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Set realised and expected errors beside those on record when the model was promoted."""
    with _monitor(platform) as monitor:
        bodies = monitor.performance(courses.keys)
    return _result(courses, platform, bodies, _performance_figures)


def _performance_figures(body: Mapping[str, Any]) -> dict[str, Any]:
    losses = {f"error_{one.basis}": one.value for one in body.get("losses", ())}
    baselines = {f"baseline_{one.basis}": one.baseline for one in body.get("losses", ())}
    named = ("ece", "certain", "estimate_ratio")
    return {**losses, **baselines, **{name: body.get(name) for name in named}}


@course_asset(
    group_name="monitoring",
    deps=["grade_predictions", "assignments", "results"],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.matured_error"},
)
def concept_drift(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Watch whether scores still follow from the predictions that were made before them."""
    with _monitor(platform) as monitor:
        bodies = monitor.concept(courses.keys)
    return _result(courses, platform, bodies, _concept_figures)


def _concept_figures(body: Mapping[str, Any]) -> dict[str, Any]:
    rows = body.get("rows")
    return {
        "alarm": bool(body["says"]),
        "matured": None if rows is None else len(rows),
        "mean_z": None if rows is None or rows.empty else float(rows["z"].mean()),
    }


@course_asset(
    group_name="monitoring",
    deps=["drift_report", "performance_report", "concept_drift"],
    kinds={"matplotlib", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "monitoring.report"},
)
def model_health(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Say in one number how each course's model is, why, and which course needs care first."""
    from grade_ml.monitoring.health import by_need

    with _monitor(platform) as monitor:
        found = monitor.health(courses.keys)
        order = by_need(found)
        pages = _pages(platform, monitor, order[:PAGES])
    for key in courses.keys:
        courses.add_asset_metadata({**_scores(found[key]), **pages.get(key, {})}, partition_key=key)
    rows = [TableRecord({"course": key, **_scores(found[key])}) for key in order[:SHOWN]]
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "by_need": plots.table(rows),
            "in_need": sum(one.needs for one in found.values()),
            "to_train": sum(one.decision.retrain for one in found.values()),
        }
    )


def _scores(one: "Health") -> dict[str, Any]:
    points = {"score": one.score} | {name: part.points for name, part in one.parts.items()}
    known = {name: round(value, 1) for name, value in points.items() if value is not None}
    return {**known, "worst": one.worst, "decision": one.decision.reason}


def _pages(
    platform: Platform, monitor: "Monitor", courses: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Write the courses' pages; return where, and their pictures."""
    from grade_ml.monitoring import report

    found = {}
    for name in courses:
        reports = report.history(monitor.connection, name, platform.as_of)
        drawn = report.drawn(reports)
        page = report.html(name, reports, drawn)
        found[name] = {
            "page": MetadataValue.path(report.write(platform.settings.storage_root, name, page)),
            **{title: plots.embed(figure, title) for title, figure in drawn.items()},
        }
    return found


MONITORING_ASSETS = [drift_report, performance_report, concept_drift, model_health]
