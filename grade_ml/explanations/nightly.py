"""The explanations of the current predictions of chosen courses on one day, stored.

Here stored things are brought together; what each figure is stands in the module of its name. Only
what changed, the model or what it reads, is made anew. An enrollment of which something cannot be
made costs the others nothing: it is left out, and `degraded` counts it with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from grade_ml.core.errors import NotReadyError
from grade_ml.core.frames import empty, reasons, together
from grade_ml.core.optional import family
from grade_ml.core.settling import settle
from grade_ml.core.types import pandas_types
from grade_ml.ensemble.groups import Bands, grouped
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.pooled import NAME as POOLED
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations import advice, loading, store
from grade_ml.explanations import narratives as narrated
from grade_ml.explanations.advice import Advice, Kind
from grade_ml.explanations.attribution import explain, pooled_of
from grade_ml.explanations.contract import TOLERANCE, Explanation
from grade_ml.explanations.counterfactuals import what_ifs as answers
from grade_ml.explanations.decision_paths import Path, Trees
from grade_ml.explanations.effects import Effect, effect
from grade_ml.explanations.fairness import fairness as figures_of_groups
from grade_ml.explanations.fairness import with_attributes
from grade_ml.explanations.importance import (
    REFERENCE,
    Weighed,
    everywhere,
    expected,
    phase_of,
    weigh,
    with_spread,
)
from grade_ml.explanations.loading import Batch, Case, batches, settled
from grade_ml.explanations.local_surrogate import Neighbours, neighbours
from grade_ml.explanations.settings import SETTINGS
from grade_ml.features.attributes import protected_columns
from grade_ml.features.continuations import Continuation
from grade_ml.features.surroundings import beside
from grade_ml.gradebook import frames, schema
from grade_ml.gradebook.frames import read_table
from grade_ml.registry.registry import Alias
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import read_shadows
from grade_ml.serving.scoring import by_model, current_snapshots

_EXPLAIN = family("explain")


@dataclass(frozen=True)
class Explained:
    """What came of one course.

    Attributes
    ----------
    rows, fresh
        Explained running enrollments, and how many of them were explained anew.
    grade_error, risk_error
        The largest difference between a sum and its number; points, and log-odds.
    """

    course_id: str
    rows: int
    fresh: int
    grade_error: float
    risk_error: float
    degraded: tuple[str, ...]

    @property
    def adds_up(self) -> bool:
        """Whether every row does."""
        return max(self.grade_error, self.risk_error) <= TOLERANCE


def attributions(
    workspace: Workspace, models: Models, courses: Collection[str]
) -> dict[str, Explained]:
    """Explain and store the current prediction of every running enrollment of `courses`.

    Raises
    ------
    NotReadyError
        No model has been trained, or no snapshots have been computed.
    """
    before = store.summary(workspace.connection, courses, workspace.as_of)
    known = set(loading.keys(before))
    fresh, failed = dict.fromkeys(courses, 0), [loading.no_odd()]
    for batch in batches(workspace, models, courses, loading.blocks):
        done, odd = settled(batch.without(known), lambda some: _attributed(some, workspace.seed))
        failed.append(odd)
        for rows in done:
            store.write_attributions(workspace.connection, rows)
            for course, count in rows["course_id"].value_counts().items():
                fresh[str(course)] += int(count)
    after = store.summary(workspace.connection, courses, workspace.as_of)
    odd = pd.concat(failed)
    return {name: _explained(name, after, fresh[name], odd) for name in courses}


def _attributed(batch: Batch, seed: int) -> pd.DataFrame:
    found = explain(batch.served.model, batch.rows, seed)
    return store.attribution_rows(found, batch.state, batch.served.degraded)


def _explained(course: str, rows: pd.DataFrame, fresh: int, odd: pd.DataFrame) -> Explained:
    own = rows[rows["course_id"] == course]
    # Of no rows there is no largest error, and nothing that does not add up.
    worst = own[["grade_error", "risk_error"]].max().fillna(0.0)
    told = [reason for text in own["degraded"].unique() for reason in json.loads(text)]
    return Explained(
        course,
        len(own),
        fresh,
        float(worst["grade_error"]),
        float(worst["risk_error"]),
        tuple(dict.fromkeys([*told, *_left_out("explanation", course, odd)])),
    )


def _left_out(what: str, course: str, odd: pd.DataFrame) -> list[str]:
    own = odd[odd["course_id"] == course]
    return [f"no {what} of {count} enrollments: {why}" for why, count in reasons(own).items()]


def importance(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Weighed]:
    """Weigh the features by the stored explanations of `courses`, and store it.

    With it goes what holds over all courses, from what is known of each of the last week.
    """
    rows = current_snapshots(workspace, courses)
    groups = protected_columns(rows.columns)
    people = rows[[*ENROLLMENT, *groups.values()]].astype(dict.fromkeys(ENROLLMENT, object))
    people = grouped(people, "student_id", _bands(models))
    found = {name: _weighed(workspace, models, name, people, groups) for name in courses}
    stored = together((one.rows for one in found.values()), pandas_types(store.importance))
    if len(stored):
        store.write_importance(workspace.connection, stored)
        _weigh_everywhere(workspace)
    return found


def _bands(models: Models) -> Bands:
    """Return the bands of the ensemble's audit; none where there is no ensemble."""
    try:
        return models.pooled_champion()[1].bands
    except NotReadyError:
        return {}


def _weighed(
    workspace: Workspace,
    models: Models,
    course: str,
    people: pd.DataFrame,
    groups: Mapping[str, str],
) -> Weighed:
    types = pandas_types(store.importance)
    told = store.read_explanations(workspace.connection, [course], workspace.as_of)
    if not told:
        return Weighed(course, empty(types), reason="no running enrollment is explained")
    reference, reason = _reference(workspace, models, course, told)
    rows = weigh(told, people, groups, reference, workspace.seed)
    rows = rows.assign(course_id=course, as_of=pd.Timestamp(workspace.as_of), model=told[0].model)
    alarms = rows[rows["alarm"].astype(bool)]
    names = tuple(f"{row.feature} ({row.task})" for row in alarms.itertuples())
    return Weighed(course, rows.reindex(columns=list(types)), names, reason)


def _reference(
    workspace: Workspace, models: Models, course: str, told: Sequence[Explanation]
) -> tuple[pd.DataFrame, str]:
    """Return task, feature, share and spread in training terms of the same phase, and why not.

    They are computed once for each version of the model.
    """
    served, nothing = models.serving(course), empty(REFERENCE)
    known_progress = [x for one in told if (x := one.values.get("progress")) is not None]
    if not known_progress:
        return nothing, "how far the sections are is unknown"
    phase = phase_of(float(np.median(known_progress)))
    pooled = pooled_of(served.model)
    if pooled is None:
        return nothing, "the baseline serves; importance is compared within an ensemble only"
    name, version = served.version.name, served.version.version
    known = store.read_reference(workspace.connection, name, version)
    own = known[(known["course_id"] == course) & (known["phase"] == phase)]
    if len(own):
        return own, ""
    if pooled.importance_spread.empty:
        return nothing, (
            "how much importance varies between fits is unknown: no boosted member could be "
            "fitted again, or an earlier version of the program trained the model"
        )
    snapshots = _every(workspace, course, served.model.features)
    usual = expected(pooled, served.model, snapshots, phase, workspace.seed)
    if usual.empty:
        return nothing, f"too few students of training terms in the {phase} phase"
    made = with_spread(usual, pooled.importance_spread, phase).assign(
        model_name=name, model_version=version, course_id=course, phase=phase
    )
    store.write_reference(workspace.connection, made)
    return made, ""


def _every(
    workspace: Workspace, course: str, features: Collection[str], most: int | None = None
) -> pd.DataFrame:
    """Return the stored snapshots of a course with what a model reads beside them.

    Without rows that hold an infinite number, which no library reads: each would cost the others.
    """
    rows = workspace.frames.snapshots([course])
    rows = rows[~np.isinf(rows.select_dtypes("number").to_numpy(np.float64)).any(axis=1)]
    if most is not None:
        rows = rows.sample(min(most, len(rows)), random_state=workspace.seed)
        rows = rows.reset_index(drop=True)
    return beside(workspace.connection, rows, features)


def _weigh_everywhere(workspace: Workspace) -> None:
    week = workspace.as_of - timedelta(days=6)
    rows = store.read_importance(workspace.connection, workspace.as_of, None, week)
    rows = rows[rows["course_id"] != store.EVERYWHERE]
    newest = rows.groupby("course_id")["as_of"].transform("max")
    rows = rows[rows["as_of"] == newest]
    whole = everywhere(rows).assign(
        course_id=store.EVERYWHERE,
        as_of=pd.Timestamp(workspace.as_of),
        model=", ".join(sorted(rows["model"].unique())),
        alarm=False,
    )
    store.write_importance(workspace.connection, whole)


def main_features(workspace: Workspace) -> pd.DataFrame:
    """Return the importance of the grade's main features over all courses, as stored today."""
    day = workspace.as_of
    rows = store.read_importance(workspace.connection, day, [store.EVERYWHERE], day)
    rows = rows[(rows["grouping"] == "") & (rows["task"] == str(Task.GRADE))]
    return rows.nlargest(SETTINGS.watched, "importance")


@dataclass(frozen=True)
class Ways:
    """The ways through trees of one course's running enrollments: section, student and path."""

    paths: tuple[tuple[str, str, Path], ...]
    degraded: tuple[str, ...] = ()


def paths(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Ways]:
    """Store each running enrollment's ways through trees, and return those of each course."""
    before = store.summary(workspace.connection, courses, workspace.as_of, store.decision_path)
    known = set(loading.keys(before))
    failed = [loading.no_odd()]
    for batch in batches(workspace, models, courses, loading.by_course):
        if len(batch.without(known)):
            failed.append(_write_paths(workspace, batch))
    odd = pd.concat(failed)
    found: dict[str, list[tuple[str, str, Path]]] = {name: [] for name in courses}
    for course, *path in store.read_paths(workspace.connection, courses, workspace.as_of):
        found[course].append(tuple(path))  # type: ignore[arg-type]
    return {
        name: Ways(tuple(own), tuple(_left_out("decision path", name, odd)))
        for name, own in found.items()
    }


def _write_paths(workspace: Workspace, batch: Batch) -> pd.DataFrame:
    """Lead the rows of one course through the trees; return those that could not be led."""
    course, model = str(batch.state["course_id"].iloc[0]), batch.served.model
    every = _every(workspace, course, model.features, SETTINGS.surrogate_rows)
    trees = Trees.of(model, every, workspace.seed)
    done, odd = settled(batch, lambda some: (trees.paths(some.rows), some.state))
    for each, state in done:
        for own in each:
            tree, body = [one.tree.split()[0] for one in own], [one.to_json() for one in own]
            store.write_paths(workspace.connection, state.assign(tree=tree, body=body))
    return odd


def fairness(workspace: Workspace, models: Models) -> tuple[pd.DataFrame, str]:
    """Measure and store how groups fare with the ensemble; return it, or why it is unknown."""
    registry = workspace.registry
    try:
        version, pooled = models.pooled_champion()
        students = read_table(workspace.connection, schema.student)
        enrollments = read_table(workspace.connection, schema.enrollment)
        used = registry.pseudonyms, registry.declared
        rows = with_attributes(pooled.held_out, students, enrollments, *used)
        found = figures_of_groups(rows, workspace.seed, pooled.bands)
    except NotReadyError as error:
        return empty(pandas_types(store.fairness)), str(error)
    if found.empty:
        return found, "no protected attribute has two groups that are large enough"
    found = found.assign(
        as_of=pd.Timestamp(workspace.as_of), model=f"{version.name} {version.version}"
    )
    store.write_fairness(workspace.connection, found)
    return found, ""


def effects(
    workspace: Workspace, models: Models, courses: Sequence[str], features: Sequence[str]
) -> list[Effect]:
    """Return the effects of `features` in the current rows of the model most of them have."""
    rows = current_snapshots(workspace, courses)
    served, own = max(by_model(models, rows, courses), key=lambda one: len(one[1]))
    if own.empty:
        return []
    some = own.sample(min(1000, len(own)), random_state=workspace.seed)
    ready = beside(workspace.connection, some.reset_index(drop=True), served.model.features)
    found = (effect(served.model, ready, name) for name in features)
    return [one for one in found if one is not None]


#: Makes one enrollment's advice, of which there may be none.
Job = Callable[[], Mapping[str, Any] | None]


def narratives(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Advice]:
    """Tell every explained prediction to each reader in each language, and store it."""

    def plan(course: str, cases: Sequence[Case]) -> Iterable[tuple[Case, Job]]:
        del course
        return [(case, partial(_narratives, case)) for case in cases]

    return _advise(workspace, models, Kind.NARRATIVE, courses, plan)


def _narratives(case: Case) -> dict[str, Any]:
    figures = case.predicted["lower80"], case.predicted["upper80"]
    return advice.narratives(narrated.Explained(case.explanation, *figures))


def second_opinions(
    workspace: Workspace, models: Models, courses: Sequence[str]
) -> dict[str, Advice]:
    """Ask LIME about those who are at risk, near the pass mark, or disputed by a challenger."""
    if "lime" in _EXPLAIN.missing():
        why = "lime is not installed (extra explain): no second opinions"
        return dict.fromkeys(courses, Advice(degraded=(why,)))
    version = workspace.registry.get(POOLED, Alias.CHALLENGER)
    challenger = (
        read_shadows(workspace.connection, version, as_of=workspace.as_of) if version else None
    )

    def plan(course: str, cases: Sequence[Case]) -> Iterable[tuple[Case, Job]]:
        every = _every(workspace, course, cases[0].served.model.features)
        pass_mark = workspace.institution.pass_mark_of(course)
        known: dict[tuple[str, float], Neighbours] = {}

        def make(case: Case, reason: str) -> dict[str, Any] | None:
            model, progress = case.served.model, float(case.row["progress"].iloc[0])
            place = case.explanation.section_id, progress
            if place not in known:
                known[place] = neighbours(model, every, progress, workspace.seed)
            return advice.second_opinion(case, reason, known[place], workspace.seed)

        chosen = advice.in_doubt(cases, challenger, pass_mark)
        return [(case, partial(make, case, reason)) for case, reason in chosen]

    return _advise(workspace, models, Kind.SECOND_OPINION, courses, plan)


def what_ifs(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Advice]:
    """Find out what would bring those who are at risk, or close below it, to the next goal."""

    def plan(course: str, cases: Sequence[Case]) -> Iterable[tuple[Case, Job]]:
        gradebook = frames.read(workspace.connection, {course})
        carried: dict[str, Continuation] = {}

        def make(case: Case, goal: float) -> dict[str, Any]:
            section = case.explanation.section_id
            if section not in carried:
                day = case.row["cut_on"].iloc[0].date()
                carried[section] = Continuation(gradebook, section, day)
            model, seed = case.served.model, workspace.seed
            return answers(model, carried[section], case.row, goal, seed).to_dict()

        chosen = advice.aims(cases, workspace.institution.goals_of(course))
        return [(case, partial(make, case, goal)) for case, goal in chosen]

    return _advise(workspace, models, Kind.WHAT_IF, courses, plan)


def _advise(
    workspace: Workspace,
    models: Models,
    kind: Kind,
    courses: Sequence[str],
    plan: Callable[[str, Sequence[Case]], Iterable[tuple[Case, Job]]],
) -> dict[str, Advice]:
    """Make and store the advice that is out of date; return all that is known today."""
    connection, day = workspace.connection, workspace.as_of
    fresh, failed = dict.fromkeys(courses, 0), [loading.no_odd()]
    for course, state in _changed(workspace, kind, courses).groupby("course_id"):
        cases = loading.cases(workspace, models, str(course), state)
        bodies, odd = _bodies(plan(str(course), cases) if cases else (), str(course))
        failed.append(odd)
        fresh[str(course)] = len(bodies)
        if len(bodies):
            store.write_advice(connection, kind, state, bodies)
    known = store.read_advice(connection, kind, courses, day)
    odd = pd.concat(failed)
    what = kind.replace("_", " ")
    return {
        name: Advice(known.get(name, ()), fresh[name], _less(what, name, known.get(name, ()), odd))
        for name in courses
    }


def _changed(workspace: Workspace, kind: Kind, courses: Collection[str]) -> pd.DataFrame:
    connection, day = workspace.connection, workspace.as_of
    explained = store.summary(connection, courses, day)
    told = store.summary(connection, courses, day, store.advice)
    told = told.loc[told["kind"] == str(kind), loading.STATE].assign(known=True)
    both = explained.merge(told, on=loading.STATE, how="left")
    return both[both["known"].isna()].reset_index(drop=True)


def _bodies(jobs: Iterable[tuple[Case, Job]], course: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return section_id, student_id and body of what the jobs make, and those that fail."""
    jobs = list(jobs)
    keys = pd.DataFrame(
        [(case.explanation.section_id, case.explanation.student_id) for case, _ in jobs],
        columns=ENROLLMENT,
    ).assign(course_id=course)
    made: dict[int, str] = {}

    def work(places: Sequence[int]) -> None:
        for place in places:
            # A failure has the others asked again: what is made already is not made twice.
            if place not in made:
                body = jobs[place][1]()
                made[place] = json.dumps(body) if body else ""

    _, failed = settle(range(len(jobs)), work)
    known = {place: made[place] for place in sorted(made) if made[place]}
    bodies = keys.loc[list(known), ENROLLMENT].assign(body=list(known.values()))
    return bodies, loading.odd(keys, failed)


def _less(
    what: str, course: str, bodies: Iterable[Mapping[str, Any]], odd: pd.DataFrame
) -> tuple[str, ...]:
    told = [reason for body in bodies for reason in body.get("degraded", ())]
    return tuple(dict.fromkeys([*told, *_left_out(what, course, odd)]))
