"""The group `explanations`: why each current prediction says what it says."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from statistics import fmean
from typing import TYPE_CHECKING, Any

from dagster import (
    AssetCheckResult,
    AssetCheckSeverity,
    AssetCheckSpec,
    MaterializeResult,
    TableRecord,
)

from grade_ml.orchestration import plots
from grade_ml.orchestration.courses import Courses, course_asset
from grade_ml.orchestration.degradation import complete, is_complete
from grade_ml.orchestration.resources import Platform

if TYPE_CHECKING:
    import pandas as pd

    from grade_ml.explanations.advisor import Advice, Advisor
    from grade_ml.explanations.explainer import Explained, Explainer, Weighed

#: Pictures cost a quarter of a second each: so many courses get them.
PAGES = 20
#: Rows of a table, and days of the picture of importance.
SHOWN, DAYS = 200, 120


@contextmanager
def explainer(platform: Platform) -> Iterator["Explainer"]:
    """Open the explanations of the run's day in one transaction."""
    from grade_ml.explanations.explainer import Explainer

    with platform.connection() as connection:
        root = platform.settings.storage_root
        yield Explainer(
            connection,
            platform.registry,
            root,
            platform.as_of,
            institution=platform.institution,
        )


@course_asset(
    group_name="explanations",
    deps=["grade_snapshots", "grade_predictions"],
    kinds={"xgboost", "lightgbm", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.attribution"},
    check_specs=[
        AssetCheckSpec(
            "adds_up",
            asset="shap_explanations",
            description="The contributions of every row add up to the number that is served.",
        ),
        complete("shap_explanations"),
    ],
)
def shap_explanations(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Take each current prediction apart into what each feature adds to an average one."""
    with explainer(platform) as found:
        explained = found.attributions(courses.keys)
        drawn = _swarms(found, courses.keys[:PAGES])
    degraded = list(dict.fromkeys(why for one in explained.values() for why in one.degraded))
    for key, one in explained.items():
        figures = {"dagster/row_count": one.rows, "explained_anew": one.fresh}
        errors = {"largest_error": one.grade_error, "largest_risk_error": one.risk_error}
        courses.add_asset_metadata({**figures, **errors, **drawn.get(key, {})}, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "rows": sum(one.rows for one in explained.values()),
            "explained_anew": sum(one.fresh for one in explained.values()),
            "degraded": degraded,
        },
        check_results=[_adds_up(explained), is_complete(degraded)],
    )


def _adds_up(explained: "Mapping[str, Explained]") -> AssetCheckResult:
    wrong = [name for name, one in explained.items() if not one.adds_up]
    worst = max((one.grade_error for one in explained.values()), default=0.0)
    worst_risk = max((one.risk_error for one in explained.values()), default=0.0)
    return AssetCheckResult(
        check_name="adds_up",
        passed=not wrong,
        severity=AssetCheckSeverity.ERROR,
        metadata={
            "rows": sum(one.rows for one in explained.values()),
            "largest_error": worst,
            "largest_risk_error": worst_risk,
            "courses": wrong[:SHOWN],
        },
    )


def _swarms(found: "Explainer", courses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return a picture of each course that has enough students for none to stand out."""
    from grade_ml.explanations import pictures, store

    drawn = {}
    for name in courses:
        told = store.read_explanations(found.connection, [name], found.as_of)
        known = [one for one in told if one.grade is not None]
        if len(known) >= plots.FEWEST:
            parts = store.matrix_of(known, "grade")
            swarm = plots.embed(pictures.beeswarm(*parts, "points"), "beeswarm")
            drawn[name] = {"beeswarm": swarm}
    return drawn


@course_asset(
    group_name="explanations",
    deps=["grade_snapshots", "shap_explanations", "enrollments", "results"],
    kinds={"lightgbm", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.importance"},
    check_specs=[
        AssetCheckSpec(
            "importance_in_band",
            asset="feature_importance",
            description="No feature is more or less important than in training terms, beyond what "
            "students and fits on unchanged data let expect.",
        ),
        AssetCheckSpec(
            "groups_fare_alike",
            asset="feature_importance",
            description="No protected group is predicted worse, selected or missed more often than "
            "all others by more than is allowed, beyond chance.",
        ),
    ],
)
def feature_importance(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Weigh the features of each course, watch for change, and compare groups of students."""
    with explainer(platform) as found:
        weighed = found.importance(courses.keys)
        groups, reason = found.fairness()
        drawn = _importances(found, courses.keys[:PAGES])
        overall = _overall(found, weighed)
    for key, one in weighed.items():
        told = {"alarms": list(one.alarms), **({"band": one.reason} if one.reason else {})}
        courses.add_asset_metadata({**told, **drawn.get(key, {})}, partition_key=key)
    return MaterializeResult(
        metadata={"as_of": platform.as_of.isoformat(), **overall, **_gaps(groups)},
        check_results=[_in_band(weighed), _alike(groups, reason)],
    )


def _in_band(weighed: "Mapping[str, Weighed]") -> AssetCheckResult:
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


def _alike(groups: "pd.DataFrame", reason: str) -> AssetCheckResult:
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


def _importances(found: "Explainer", courses: Sequence[str]) -> dict[str, dict[str, Any]]:
    from grade_ml.explanations import pictures, store

    since = found.as_of - timedelta(days=DAYS)
    rows = store.read_importance(found.connection, found.as_of, courses, since)
    rows = rows[(rows["grouping"] == "") & (rows["task"] == "grade")]
    drawn = {}
    for name, own in rows.groupby("course_id"):
        today = own[own["as_of"] == own["as_of"].max()]
        drawn[str(name)] = {
            "importance": plots.embed(pictures.importance_bars(today), "importance"),
            "over_time": plots.embed(pictures.importance_over_time(own), "importance over time"),
        }
    return drawn


def _overall(found: "Explainer", weighed: "Mapping[str, Weighed]") -> dict[str, Any]:
    """Return the main features of all courses and how predictions move with them."""
    from grade_ml.explanations import pictures, store

    rows = store.read_importance(found.connection, found.as_of, [store.EVERYWHERE], found.as_of)
    rows = rows[(rows["grouping"] == "") & (rows["task"] == "grade")]
    main = rows.nlargest(12, "importance")
    table = [
        TableRecord({"feature": name, "points": points, "share": share})
        for name, points, share in zip(
            *(main[name].tolist() for name in ("feature", "importance", "share")), strict=True
        )
    ]
    effects = found.effects(list(weighed), main["feature"].head(4).tolist())
    drawn = {"effects": plots.embed(pictures.effects(effects), "effects")} if effects else {}
    return {"everywhere": plots.table(table), **drawn}


def _gaps(groups: "pd.DataFrame") -> dict[str, Any]:
    from grade_ml.explanations import pictures

    if groups.empty:
        return {}
    return {"groups": plots.embed(pictures.gaps(groups), "gaps of groups")}


@course_asset(
    group_name="explanations",
    deps=["grade_snapshots", "grade_predictions"],
    kinds={"scikitlearn", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.decision_path"},
)
def decision_paths(courses: Courses, platform: Platform) -> MaterializeResult[None]:
    """Lead each current row through a small tree like the model, and through one of the model."""
    from grade_ml.explanations.pictures import question

    with explainer(platform) as found:
        paths = found.paths(courses.keys)
    for key, own in paths.items():
        fidelity = next((one.fidelity for *_, one in own if one.fidelity is not None), None)
        figures = {} if fidelity is None else {"surrogate_r2": fidelity}
        asked = Counter((path.tree, question(step)) for *_, path in own for step in path.steps)
        rows = [
            TableRecord({"tree": tree, "question": words, "asked of": number})
            for (tree, words), number in asked.most_common(SHOWN)
            if number >= plots.FEWEST
        ]
        told = {"dagster/row_count": len(own), **figures, "questions": plots.table(rows)}
        courses.add_asset_metadata(told, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "paths": sum(map(len, paths.values())),
        }
    )


@contextmanager
def advisor(platform: Platform) -> Iterator["Advisor"]:
    """Open the advice of the run's day in one transaction."""
    from grade_ml.explanations.advisor import Advisor

    with platform.connection() as connection:
        root = platform.settings.storage_root
        yield Advisor(
            connection,
            platform.registry,
            root,
            platform.as_of,
            institution=platform.institution,
        )


def _advised(
    courses: Courses, platform: Platform, advice: "Mapping[str, Advice]"
) -> MaterializeResult:  # type: ignore[type-arg]
    """Tell how much is stored of each course, and how much of it is new."""
    degraded = list(dict.fromkeys(why for one in advice.values() for why in one.degraded))
    for key, one in advice.items():
        told = {"dagster/row_count": len(one.bodies), "made_anew": one.fresh}
        courses.add_asset_metadata(told, partition_key=key)
    return MaterializeResult(
        metadata={
            "as_of": platform.as_of.isoformat(),
            "rows": sum(len(one.bodies) for one in advice.values()),
            "made_anew": sum(one.fresh for one in advice.values()),
            "degraded": degraded,
        },
        check_results=[is_complete(degraded)],
    )


def _and(result: MaterializeResult, more: Mapping[str, Any]) -> MaterializeResult:  # type: ignore[type-arg]
    return result._replace(metadata={**(result.metadata or {}), **more})


@course_asset(
    group_name="explanations",
    deps=["grade_snapshots", "grade_predictions", "shap_explanations"],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[complete("lime_explanations")],
)
def lime_explanations(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Ask for a second opinion on predictions at risk, near a threshold, or in dispute."""
    with advisor(platform) as found:
        advice = found.second_opinions(courses.keys)
    bodies = [body for one in advice.values() for body in one.bodies]
    shown = [body for body in bodies if not body["hidden"]]
    means = {
        name: fmean(known)
        for name in ("r2", "jaccard5", "signs")
        if (known := [body[name] for body in shown if body[name] is not None])
    }
    return _and(_advised(courses, platform, advice), {"shown": len(shown), **means})


@course_asset(
    group_name="explanations",
    deps=["grade_snapshots", "shap_explanations", "assignments", "results", "activity"],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[complete("counterfactuals")],
)
def counterfactuals(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Find out what students at risk, or close below a goal, could do to reach it."""
    with advisor(platform) as found:
        advice = found.what_ifs(courses.keys)
    statuses = Counter(body["status"] for one in advice.values() for body in one.bodies)
    return _and(_advised(courses, platform, advice), statuses)


@course_asset(
    group_name="explanations",
    deps=["grade_predictions", "shap_explanations"],
    kinds={"python", "postgres"},
    owners=["team:ml-engineering"],
    code_version="1",
    metadata={"dagster/table_name": "explanations.advice"},
    check_specs=[
        AssetCheckSpec(
            "traceable",
            asset="narratives",
            description="Every number, sign and theme of every narrative is the stored one.",
        ),
        complete("narratives"),
    ],
)
def narratives(courses: Courses, platform: Platform) -> MaterializeResult:  # type: ignore[type-arg]
    """Tell each prediction in two to four sentences to student, adviser and analyst."""
    with advisor(platform) as found:
        advice = found.narratives(courses.keys)
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
    result = _advised(courses, platform, advice)
    return result._replace(check_results=[*(result.check_results or ()), check])


EXPLANATION_ASSETS = [
    shap_explanations,
    feature_importance,
    decision_paths,
    lime_explanations,
    counterfactuals,
    narratives,
]
