"""Metadata of monitoring: figures of each course, the check of records, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue

from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses

if TYPE_CHECKING:
    from grade_ml.monitoring.drift import Drift
    from grade_ml.monitoring.health import Health
    from grade_ml.monitoring.performance import Unmeasured
    from grade_ml.monitoring.streams import StreamAlarms
    from grade_ml.registry.workspace import Workspace

R = TypeVar("R")

#: Pages and pictures cost half a second each: the courses of a run that need most get them.
PAGES = 20


def metadata_by_course(
    courses: Courses,
    reports: Mapping[str, R],
    figures: Callable[[R], Mapping[str, Any]],
    as_of: date,
) -> dict[str, Any]:
    """Add the texts and figures of each course; return the metadata of the whole run."""
    for key in courses.keys:
        report = reports[key]
        known = {name: value for name, value in figures(report).items() if value is not None}
        words = {name: getattr(report, name, "") for name in ("status", "reason", "says")}
        texts = {name: str(text) for name, text in words.items() if text}
        courses.add_asset_metadata({**texts, **known}, partition_key=key)
    return {
        "as_of": as_of.isoformat(),
        "courses": len(courses.keys),
        "notable": sum(bool(getattr(reports[key], "says", "")) for key in courses.keys),
    }


def drift_figures(report: Drift) -> dict[str, Any]:
    """Return how many features of a course drifted."""
    from grade_ml.monitoring.drift import Judged

    figures: dict[str, Any] = {"drifted": report.drifted, "degraded": list(report.degraded)}
    figures |= {"redesigned": list(report.redesigned)} if report.redesigned else {}
    if isinstance(report, Judged):
        figures |= {
            "drifted_features": int(report.features["drifted"].sum()),
            "reference_rows": report.reference_rows,
            "current_rows": report.current_rows,
        }
    return figures


def data_quality(reports: Mapping[str, Drift]) -> AssetCheckResult:
    """Return the check of the rows of running sections."""
    from grade_ml.monitoring.drift import Compared

    compared = {
        name: report.quality for name, report in reports.items() if isinstance(report, Compared)
    }
    odd = {
        name: comparison.violations
        for name, comparison in compared.items()
        if comparison.violations
    }
    rows = [
        {"course": name, "violation": text} for name, texts in sorted(odd.items()) for text in texts
    ]
    return AssetCheckResult(
        check_name="data_quality",
        passed=not odd,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "courses_tested": sum(comparison.tested > 0 for comparison in compared.values()),
            "courses_odd": len(odd),
            "violations": len(rows),
            "first_violations": plots.table(rows[: plots.ROWS]),
        },
    )


def performance_figures(report: Unmeasured) -> dict[str, Any]:
    """Return the errors of a course's predictions, and those on record."""
    from grade_ml.monitoring.performance import Performance

    if not isinstance(report, Performance):
        return {}
    errors = {f"error_{loss.basis}": loss.value for loss in report.losses}
    baselines = {f"baseline_{loss.basis}": loss.baseline for loss in report.losses}
    named = {name: getattr(report, name) for name in ("ece", "certain", "estimate_ratio")}
    return {**errors, **baselines, **named}


def concept_figures(report: StreamAlarms) -> dict[str, Any]:
    """Return whether scores of a course still agree with predictions."""
    from grade_ml.monitoring.streams import Concept

    rows = report.rows if isinstance(report, Concept) else None
    return {
        "alarm": bool(report.says),
        "matured": None if rows is None else len(rows),
        "mean_z": None if rows is None or rows.empty else float(rows["z"].mean()),
    }


def health_figures(report: Health) -> dict[str, Any]:
    """Return the score of a course's model and its parts."""
    points = {f"points_{name}": part.points for name, part in report.parts.items()}
    known = {name: value for name, value in points.items() if value is not None}
    score = {} if report.score is None else {"score": report.score}
    return {**score, **known, "worst": report.worst, "decision": report.decision.reason}


def by_need(order: Sequence[str], reports: Mapping[str, Health]) -> dict[str, Any]:
    """Return a table of the courses of a run that need most, and how many need training."""
    neediest = [(key, reports[key]) for key in order[: plots.ROWS]]
    rows = [
        {
            "course": key,
            "score": health.score,
            "worst": health.worst,
            "decision": health.decision.reason,
        }
        for key, health in neediest
    ]
    return {
        "courses": len(reports),
        "neediest_courses": plots.table(rows),
        "in_need": sum(report.needs for report in reports.values()),
        "to_train": sum(report.decision.retrain for report in reports.values()),
    }


def pages(workspace: Workspace, courses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Write the pages of the courses; return their paths and pictures."""
    from grade_ml.monitoring import report

    written = {}
    for name in courses[:PAGES]:
        reports = report.history(workspace.connection, name, workspace.as_of)
        drawn = report.drawn(reports)
        page = report.html(name, reports, drawn)
        written[name] = {
            "page": MetadataValue.path(report.write(workspace.root, name, page)),
            **{title: plots.embed(figure, title) for title, figure in drawn.items()},
        }
    return written


def alerts(workspace: Workspace) -> dict[str, Any]:
    """Return the number of open alerts, and the notices that could not be sent."""
    from grade_ml.alerts import conditions, outbox

    unsent = outbox.unsent(workspace.connection, workspace.now)
    return {
        "alerts_open": len(conditions.open_conditions(workspace.connection)),
        "alerts_unsent": [str(notice) for notice in unsent[: plots.ROWS]],
    }
