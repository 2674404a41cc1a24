"""What explanations look like in Dagster: figures, tables, checks and pictures.

Whoever sees the UI reads them: none of them is about a single student.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from statistics import fmean
from typing import Any

import pandas as pd
from dagster import AssetCheckResult, AssetCheckSeverity, MaterializeResult, TableRecord

from grade_ml.explanations import pictures, store
from grade_ml.explanations.advice import Advice
from grade_ml.explanations.effects import Effect
from grade_ml.explanations.importance import Weighed
from grade_ml.explanations.nightly import Explained, Ways
from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses
from grade_ml.orchestration.degradation import is_complete
from grade_ml.registry.workspace import Workspace

#: Pictures cost a quarter of a second each: so many courses get them.
PAGES = 20
#: Rows of a table, and days of the picture of importance.
SHOWN, DAYS = 200, 120

Figures = Mapping[str, Any]


def swarms(workspace: Workspace, courses: Sequence[str]) -> Mapping[str, Figures]:
    """Return a picture of each course that has enough students for none to stand out."""
    drawn = {}
    for name in courses[:PAGES]:
        told = store.read_explanations(workspace.connection, [name], workspace.as_of)
        known = [one for one in told if one.grade is not None]
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
    """Tell how much is explained, how much of it anew, and whether it adds up."""
    for key, one in explained.items():
        figures = {"dagster/row_count": one.rows, "explained_anew": one.fresh}
        errors = {"largest_error": one.grade_error, "largest_risk_error": one.risk_error}
        courses.add_asset_metadata({**figures, **errors, **drawn.get(key, {})}, partition_key=key)
    degraded = _degraded(explained)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "rows": sum(one.rows for one in explained.values()),
            "explained_anew": sum(one.fresh for one in explained.values()),
            "degraded": degraded,
        },
        check_results=[_adds_up(explained), is_complete(degraded)],
    )


def _degraded(found: Mapping[str, Explained | Ways | Advice]) -> list[str]:
    return list(dict.fromkeys(why for one in found.values() for why in one.degraded))


def _adds_up(explained: Mapping[str, Explained]) -> AssetCheckResult:
    wrong = [name for name, one in explained.items() if not one.adds_up]
    return AssetCheckResult(
        check_name="adds_up",
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "rows": sum(one.rows for one in explained.values()),
            "largest_error": max((one.grade_error for one in explained.values()), default=0.0),
            "largest_risk_error": max((one.risk_error for one in explained.values()), default=0.0),
            "courses": wrong[:SHOWN],
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
        TableRecord({"feature": name, "points": points, "share": share})
        for name, points, share in zip(
            *(main[name].tolist() for name in ("feature", "importance", "share")), strict=True
        )
    ]
    drawn = {"effects": plots.embed(pictures.effects(effects), "effects")} if effects else {}
    return {"everywhere": plots.table(table), **drawn}


def importance(  # noqa: PLR0913, PLR0917 - what the asset says
    courses: Courses,
    as_of: date,
    weighed: Mapping[str, Weighed],
    drawn: Mapping[str, Figures],
    everywhere: Figures,
    fairness: tuple[pd.DataFrame, str],
) -> MaterializeResult[None]:
    """Tell which features count, whether that changed, and how groups of students fare."""
    for key, one in weighed.items():
        told = {"alarms": list(one.alarms), **({"band": one.reason} if one.reason else {})}
        courses.add_asset_metadata({**told, **drawn.get(key, {})}, partition_key=key)
    return MaterializeResult(
        metadata={"as_of": as_of.isoformat(), **everywhere, **_groups(fairness[0])},
        check_results=[_in_band(weighed), _alike(*fairness)],
    )


def _in_band(weighed: Mapping[str, Weighed]) -> AssetCheckResult:
    alarms = {name: list(one.alarms) for name, one in weighed.items() if one.alarms}
    rows = [
        TableRecord({"course": name, "feature": feature})
        for name, features in sorted(alarms.items())
        for feature in features
    ]
    return AssetCheckResult(
        check_name="importance_in_band",
        passed=not alarms,
        severity=AssetCheckSeverity.WARN,
        metadata={
            "courses_judged": sum(not one.reason for one in weighed.values()),
            "alarms": plots.table(rows[:SHOWN]),
        },
    )


def _alike(groups: pd.DataFrame, reason: str) -> AssetCheckResult:
    """Fail on a gap that is too large; what could not be measured warns."""
    wrong = groups[groups["exceeds"].astype(bool)]
    told = [
        f"{row.attribute} {row.group_name}: {row.metric} {row.gap:+.3f}, allowed {row.most:g}"
        for row in wrong.itertuples()
    ]
    return AssetCheckResult(
        check_name="groups_fare_alike",
        passed=wrong.empty and not reason,
        severity=AssetCheckSeverity.WARN if reason else AssetCheckSeverity.ERROR,
        metadata={"gaps": told, "compared": len(groups), **({"reason": reason} if reason else {})},
    )


def _groups(groups: pd.DataFrame) -> dict[str, Any]:
    if groups.empty:
        return {}
    columns = ("attribute", "group_name", "metric", "students", "value", "gap", "most")
    rows = groups[[*columns]].astype({"students": int}).round(4).to_dict("records")
    shown = [TableRecord({str(name): value for name, value in row.items()}) for row in rows]
    return {
        "groups": plots.embed(pictures.gaps(groups), "gaps of groups"),
        "fairness": plots.table(shown[:SHOWN]),
    }


def paths(courses: Courses, as_of: date, ways: Mapping[str, Ways]) -> MaterializeResult[None]:
    """Tell the questions that are asked of enough students, and how good the surrogate is."""
    for key, one in ways.items():
        fidelity = next((p.fidelity for *_, p in one.paths if p.fidelity is not None), None)
        figures = {} if fidelity is None else {"surrogate_r2": fidelity}
        asked = Counter(
            (path.tree, pictures.question(step)) for *_, path in one.paths for step in path.steps
        )
        rows = [
            TableRecord({"tree": tree, "question": words, "asked of": number})
            for (tree, words), number in asked.most_common(SHOWN)
            if number >= plots.FEWEST
        ]
        told = {"dagster/row_count": len(one.paths), **figures, "questions": plots.table(rows)}
        courses.add_asset_metadata(told, partition_key=key)
    degraded = _degraded(ways)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "paths": sum(len(one.paths) for one in ways.values()),
            "degraded": degraded,
        },
        check_results=[is_complete(degraded)],
    )


def second_opinions(
    courses: Courses, as_of: date, advice: Mapping[str, Advice]
) -> MaterializeResult[None]:
    """Tell how many second opinions there are, and how far they are the first ones."""
    bodies = [body for one in advice.values() for body in one.bodies]
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
    """Tell what became of how many goals."""
    statuses = Counter(body["status"] for one in advice.values() for body in one.bodies)
    return _advised(courses, as_of, advice, statuses)


def narratives(
    courses: Courses, as_of: date, advice: Mapping[str, Advice]
) -> MaterializeResult[None]:
    """Tell how many narratives there are, and whether all of what they say is stored."""
    bodies = [body for one in advice.values() for body in one.bodies]
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
    """Tell how much is stored of each course, and how much of it is new."""
    for key, one in advice.items():
        told = {"dagster/row_count": len(one.bodies), "made_anew": one.fresh}
        courses.add_asset_metadata(told, partition_key=key)
    degraded = _degraded(advice)
    return MaterializeResult(
        metadata={
            "as_of": as_of.isoformat(),
            "rows": sum(len(one.bodies) for one in advice.values()),
            "made_anew": sum(one.fresh for one in advice.values()),
            "degraded": degraded,
            **more,
        },
        check_results=[is_complete(degraded), *checks],
    )
