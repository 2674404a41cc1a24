"""Metadata of explanations: figures, tables, checks and pictures.

All users of the UI see them: none of them is about a single student.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from statistics import fmean
from typing import Any

import pandas as pd
from dagster import AssetCheckResult, AssetCheckSeverity, MaterializeResult

from grade_ml.explanations import pictures, store
from grade_ml.explanations.advice import Advice
from grade_ml.explanations.effects import Effect
from grade_ml.explanations.fairness import lacks
from grade_ml.explanations.importance import Weighed
from grade_ml.explanations.nightly import Explained, Ways
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses
from grade_ml.orchestration.degradation import is_complete
from grade_ml.registry.workspace import Workspace

#: Courses that get pictures, which cost a quarter of a second each.
PAGES = 20
#: Days of the picture of importance.
DAYS = 120

Figures = Mapping[str, Any]


def swarms(workspace: Workspace, courses: Sequence[str]) -> Mapping[str, Figures]:
    """Return a picture of each course that has enough students for none to stand out."""
    drawn = {}
    for name in courses[:PAGES]:
        stored = store.read_explanations(workspace.connection, [name], workspace.as_of)
        known = [explanation for explanation in stored if explanation.grade is not None]
        if len(known) >= plots.FEWEST:
            parts = store.matrix_of(known, "grade")
            swarm = plots.embed(pictures.beeswarm(*parts, "points"), "beeswarm")
            drawn[name] = {"beeswarm": swarm}
    return drawn


def attributions(
    courses: Courses,
    as_of: date,
    explained: Mapping[str, Explained],
    drawn: Mapping[str, Figures],
) -> MaterializeResult[None]:
    """Report the explained rows, the new rows among them, and whether contributions add up."""
    for key, course in explained.items():
        figures = {"dagster/row_count": course.rows, "explained_anew": course.fresh}
        errors = {"largest_error": course.grade_error, "largest_risk_error": course.risk_error}
        courses.add_asset_metadata({**figures, **errors, **drawn.get(key, {})}, partition_key=key)
    degraded = _degraded(explained)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "rows": sum(course.rows for course in explained.values()),
            "explained_anew": sum(course.fresh for course in explained.values()),
            "degraded": degraded,
        },
        check_results=[_adds_up(explained), is_complete(degraded)],
    )


def _degraded(by_course: Mapping[str, Explained | Ways | Advice]) -> list[str]:
    return list(dict.fromkeys(why for course in by_course.values() for why in course.degraded))


def _adds_up(explained: Mapping[str, Explained]) -> AssetCheckResult:
    wrong = [name for name, course in explained.items() if not course.adds_up]
    return AssetCheckResult(
        check_name="adds_up",
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "rows": sum(course.rows for course in explained.values()),
            "largest_error": max(
                (course.grade_error for course in explained.values()), default=0.0
            ),
            "largest_risk_error": max(
                (course.risk_error for course in explained.values()), default=0.0
            ),
            "courses": wrong[: plots.ROWS],
        },
    )


def importances(workspace: Workspace, courses: Sequence[str]) -> Mapping[str, Figures]:
    """Return pictures of the importance of each course's features, today and over time."""
    since = workspace.as_of - timedelta(days=DAYS)
    rows = store.read_importance(workspace.connection, workspace.as_of, courses[:PAGES], since)
    rows = rows[(rows["grouping"] == "") & (rows["task"] == "grade")]
    drawn = {}
    for name, own in rows.groupby("course_id"):
        today = own[own["as_of"] == own["as_of"].max()]
        drawn[str(name)] = {
            "importance": plots.embed(pictures.importance_bars(today), "importance"),
            "over_time": plots.embed(pictures.importance_over_time(own), "importance over time"),
        }
    return drawn


def overall(main: pd.DataFrame, effects: Sequence[Effect]) -> dict[str, Any]:
    """Return the main features of all courses and how predictions move with them."""
    table = [
        {"feature": name, "mean_contribution": points, "share": share}
        for name, points, share in zip(
            *(main[name].tolist() for name in ("feature", "importance", "share")), strict=True
        )
    ]
    drawn = {"effects": plots.embed(pictures.effects(effects), "effects")} if effects else {}
    return {"everywhere": plots.table(table), **drawn}


def importance(  # noqa: PLR0913, PLR0917 - the results of the asset
    courses: Courses,
    as_of: date,
    weighed: Mapping[str, Weighed],
    drawn: Mapping[str, Figures],
    everywhere: Figures,
    fairness: tuple[pd.DataFrame, str],
) -> MaterializeResult[None]:
    """Report the importance of features, its change, and the comparison of groups of students."""
    for key, course in weighed.items():
        figures = {
            "alarms": list(course.alarms),
            **({"no_band": course.reason} if course.reason else {}),
        }
        courses.add_asset_metadata({**figures, **drawn.get(key, {})}, partition_key=key)
    return MaterializeResult(
        metadata={"as_of": as_of.isoformat(), **everywhere, **_groups(fairness[0])},
        check_results=[
            is_complete(filter(None, [lacks()])),
            _in_band(weighed),
            _alike(*fairness),
        ],
    )


def _in_band(weighed: Mapping[str, Weighed]) -> AssetCheckResult:
    alarms = {name: list(course.alarms) for name, course in weighed.items() if course.alarms}
    rows = [
        {"course": name, "feature": feature}
        for name, features in sorted(alarms.items())
        for feature in features
    ]
    return AssetCheckResult(
        check_name="importance_in_band",
        passed=not alarms,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "courses_judged": sum(not course.reason for course in weighed.values()),
            "alarms": len(rows),
            "first_alarms": plots.table(rows[: plots.ROWS]),
        },
    )


def _alike(groups: pd.DataFrame, reason: str) -> AssetCheckResult:
    """Fail on a gap that is too large; warn if a gap could not be measured."""
    wrong = groups[groups["exceeds"].astype(bool)]
    gaps = [
        f"{row.attribute} {row.group_name}: {row.metric} {row.gap:+.3f}, allowed {row.most:g}"
        for row in wrong.itertuples()
    ]
    return AssetCheckResult(
        check_name="groups_fare_alike",
        passed=wrong.empty and not reason,
        severity=AssetCheckSeverity.WARN if reason else AssetCheckSeverity.ERROR,
        metadata={"gaps": gaps, "compared": len(groups), **({"reason": reason} if reason else {})},
    )


def _groups(groups: pd.DataFrame) -> dict[str, Any]:
    if groups.empty:
        return {}
    columns = ("attribute", "group_name", "metric", "students", "value", "gap", "most")
    # The gaps nearest to the allowed gap, or beyond it.
    order = (groups["gap"].abs() / groups["most"]).sort_values(ascending=False).index
    rows = groups.loc[order[: plots.ROWS], [*columns]].astype({"students": int})
    return {
        "groups": plots.embed(pictures.gaps(groups), "gaps of groups"),
        "largest_gaps": plots.table(plots.records(rows)),
    }


def paths(courses: Courses, as_of: date, ways: Mapping[str, Ways]) -> MaterializeResult[None]:
    """Report the questions that concern enough students, and the fidelity of the surrogate."""
    for key, of_course in ways.items():
        fidelity = next((p.fidelity for *_, p in of_course.paths if p.fidelity is not None), None)
        figures = {} if fidelity is None else {"surrogate_r2": fidelity}
        questions = Counter(
            (path.tree, pictures.question(step))
            for *_, path in of_course.paths
            for step in path.steps
        )
        rows = [
            {"tree": tree, "question": words, "students_asked": number}
            for (tree, words), number in questions.most_common(plots.ROWS)
            if number >= plots.FEWEST
        ]
        metadata = {
            "dagster/row_count": len(of_course.paths),
            **figures,
            "questions": plots.table(rows),
        }
        courses.add_asset_metadata(metadata, partition_key=key)
    degraded = _degraded(ways)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "paths": sum(len(course.paths) for course in ways.values()),
            "degraded": degraded,
        },
        check_results=[is_complete(degraded)],
    )


def second_opinions(
    courses: Courses, as_of: date, advice: Mapping[str, Advice]
) -> MaterializeResult[None]:
    """Report how many second opinions there are, and how far they agree with the contributions."""
    bodies = [body for course in advice.values() for body in course.bodies]
    shown = [body for body in bodies if not body["hidden"]]
    means = {
        name: fmean(known)
        for name in ("r2", "jaccard5", "signs")
        if (known := [body[name] for body in shown if body[name] is not None])
    }
    return _advised(courses, as_of, advice, {"shown": len(shown), **means})


def what_ifs(
    courses: Courses, as_of: date, advice: Mapping[str, Advice]
) -> MaterializeResult[None]:
    """Report how many goals have each status."""
    statuses = Counter(body["status"] for course in advice.values() for body in course.bodies)
    return _advised(courses, as_of, advice, statuses)


def narratives(
    courses: Courses, as_of: date, advice: Mapping[str, Advice]
) -> MaterializeResult[None]:
    """Report how many narratives there are, and whether all their content is stored."""
    bodies = [body for course in advice.values() for body in course.bodies]
    problems = [problem for body in bodies for problem in body["problems"]]
    check = AssetCheckResult(
        check_name="traceable",
        passed=not problems,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "narratives": len(bodies),
            "problems": len(problems),
            "listed_in": "explanations.advice, body -> problems",
        },
    )
    return _advised(courses, as_of, advice, {}, check)


def _advised(
    courses: Courses,
    as_of: date,
    advice: Mapping[str, Advice],
    more: Figures,
    *checks: AssetCheckResult,
) -> MaterializeResult[None]:
    """Report how many rows are stored for each course, and how many are new."""
    for key, course in advice.items():
        figures = {"dagster/row_count": len(course.bodies), "made_anew": course.fresh}
        courses.add_asset_metadata(figures, partition_key=key)
    degraded = _degraded(advice)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "rows": sum(len(course.bodies) for course in advice.values()),
            "made_anew": sum(course.fresh for course in advice.values()),
            "degraded": degraded,
            **more,
        },
        check_results=[is_complete(degraded), *checks],
    )
