"""What the UI shows of monitoring: figures of each course, the check of records, pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, TypeVar

from dagster import AssetCheckResult, AssetCheckSeverity, MetadataValue, TableRecord

from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses

if TYPE_CHECKING:
    from grade_ml.monitoring.drift import Drift
    from grade_ml.monitoring.health import Health
    from grade_ml.monitoring.performance import Unmeasured
    from grade_ml.monitoring.streams import Heard
    from grade_ml.registry.workspace import Workspace

R = TypeVar("R")

#: Pages and pictures cost half a second each: the courses in most need of a run get them.
PAGES = 20
#: Rows of the table of all courses.
SHOWN = 200


def tell(
    courses: Courses,
    reports: Mapping[str, R],
    figures: Callable[[R], Mapping[str, Any]],
    as_of: date,
) -> dict[str, Any]:
    """Tell each course's words and figures; return of the run how many say something."""
    for key in courses.keys:
        report = reports[key]
        known = {name: value for name, value in figures(report).items() if value is not None}
        words = {name: getattr(report, name, "") for name in ("status", "reason", "says")}
        told = {name: str(text) for name, text in words.items() if text}
        courses.add_asset_metadata({**told, **known}, partition_key=key)
    return {
        "as_of": as_of.isoformat(),
        "courses": len(courses.keys),
        "notable": sum(bool(getattr(reports[key], "says", "")) for key in courses.keys),
    }


def drift_figures(report: Drift) -> dict[str, Any]:
    """Return how much of a course drifted."""
    from grade_ml.monitoring.drift import Judged

    found: dict[str, Any] = {"drifted": report.drifted, "degraded": list(report.degraded)}
    if isinstance(report, Judged):
        found |= {
            "drifted_features": int(report.features["drifted"].sum()),
            "reference_rows": report.reference_rows,
            "current_rows": report.current_rows,
        }
    return found


def data_quality(reports: Mapping[str, Drift]) -> AssetCheckResult:
    """Return the check of the rows of running sections."""
    from grade_ml.monitoring.drift import Compared

    found = {name: one.quality for name, one in reports.items() if isinstance(one, Compared)}
    odd = {name: one.violations for name, one in found.items() if one.violations}
    rows = [
        TableRecord({"course": name, "violation": text})
        for name, texts in sorted(odd.items())
        for text in texts
    ]
    return AssetCheckResult(
        check_name="data_quality",
        passed=not odd,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "courses_tested": sum(one.tested > 0 for one in found.values()),
            "courses_odd": len(odd),
            "violations": plots.table(rows[:SHOWN]),
        },
    )


def performance_figures(report: Unmeasured) -> dict[str, Any]:
    """Return the errors of a course's predictions beside those on record."""
    from grade_ml.monitoring.performance import Performance

    if not isinstance(report, Performance):
        return {}
    errors = {f"error_{one.basis}": one.value for one in report.losses}
    baselines = {f"baseline_{one.basis}": one.baseline for one in report.losses}
    named = {name: getattr(report, name) for name in ("ece", "certain", "estimate_ratio")}
    return {**errors, **baselines, **named}


def concept_figures(report: Heard) -> dict[str, Any]:
    """Return whether scores of a course still follow from predictions."""
    from grade_ml.monitoring.streams import Concept

    rows = report.rows if isinstance(report, Concept) else None
    return {
        "alarm": bool(report.says),
        "matured": None if rows is None else len(rows),
        "mean_z": None if rows is None or rows.empty else float(rows["z"].mean()),
    }


def health_figures(report: Health) -> dict[str, Any]:
    """Return the score of a course's model and its parts."""
    points = {"score": report.score} | {name: one.points for name, one in report.parts.items()}
    known = {name: round(value, 1) for name, value in points.items() if value is not None}
    return {**known, "worst": report.worst, "decision": report.decision.reason}


def by_need(order: Sequence[str], reports: Mapping[str, Health]) -> dict[str, Any]:
    """Return the table of the courses of a run, the neediest first, and how many need what."""
    rows = [TableRecord({"course": key, **health_figures(reports[key])}) for key in order[:SHOWN]]
    return {
        "by_need": plots.table(rows),
        "in_need": sum(one.needs for one in reports.values()),
        "to_train": sum(one.decision.retrain for one in reports.values()),
    }


def pages(workspace: Workspace, courses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Write the courses' pages; return where, and their pictures."""
    from grade_ml.monitoring import report

    found = {}
    for name in courses[:PAGES]:
        reports = report.history(workspace.connection, name, workspace.as_of)
        drawn = report.drawn(reports)
        page = report.html(name, reports, drawn)
        found[name] = {
            "page": MetadataValue.path(report.write(workspace.root, name, page)),
            **{title: plots.embed(figure, title) for title, figure in drawn.items()},
        }
    return found


def alerts(workspace: Workspace) -> dict[str, Any]:
    """Return what is wrong by the alerts, and what of it could not be sent."""
    from grade_ml.alerts import conditions, outbox

    unsent = outbox.unsent(workspace.connection, workspace.now)
    return {
        "alerts_open": len(conditions.open_conditions(workspace.connection)),
        "alerts_unsent": [str(one) for one in unsent[:SHOWN]],
    }
