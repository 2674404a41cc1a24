"""Makes and stores the explanations of the current predictions of chosen courses on one day.

This module reads and writes the store; the module of each figure computes it. An explanation is
made again only if the model changed, or what it reads. An enrollment that fails does not affect the
others: it is left out, and `degraded` counts it with the reason.
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
from grade_ml.core.optional import absence, family
from grade_ml.core.settling import settle
from grade_ml.core.types import pandas_types
from grade_ml.ensemble.groups import Bands, grouped
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.names import POOLED
from grade_ml.ensemble.rows import ENROLLMENT
from grade_ml.explanations import advice, loading, store, tables
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
    """The explanations of one course.

    Attributes
    ----------
    rows, fresh
        Explained running enrollments, and how many of them were explained in this run.
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
        """Whether every row adds up to its prediction."""
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
        done, odd = settled(batch.without(known), lambda part: _attributed(part, workspace.seed))
        failed.append(odd)
        for rows in done:
            store.write_attributions(workspace.connection, rows)
            for course, count in rows["course_id"].value_counts().items():
                fresh[str(course)] += int(count)
    after = store.summary(workspace.connection, courses, workspace.as_of)
    odd = pd.concat(failed)
    return {name: _explained(name, after, fresh[name], odd) for name in courses}


def _attributed(batch: Batch, seed: int) -> pd.DataFrame:
    explained = explain(batch.served.model, batch.rows, seed)
    return store.attribution_rows(explained, batch.state, batch.served.degraded)


def _explained(course: str, rows: pd.DataFrame, fresh: int, odd: pd.DataFrame) -> Explained:
    own = rows[rows["course_id"] == course]
    # Without rows there is no largest error, and no row that does not add up.
    worst = own[["grade_error", "risk_error"]].max().fillna(0.0)
    degraded = [reason for text in own["degraded"].unique() for reason in json.loads(text)]
    return Explained(
        course,
        len(own),
        fresh,
        float(worst["grade_error"]),
        float(worst["risk_error"]),
        tuple(dict.fromkeys([*degraded, *_left_out("explanation", course, odd)])),
    )


def _left_out(subject: str, course: str, odd: pd.DataFrame) -> list[str]:
    own = odd[odd["course_id"] == course]
    return [f"no {subject} of {count} enrollments: {why}" for why, count in reasons(own).items()]


def importance(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Weighed]:
    """Compute and store the importance of features from the stored explanations of `courses`.

    It also stores the importance over all courses, from the last week's importance of each.
    """
    rows = current_snapshots(workspace, courses)
    groups = protected_columns(rows.columns)
    people = rows[[*ENROLLMENT, *groups.values()]].astype(dict.fromkeys(ENROLLMENT, object))
    people = grouped(people, "student_id", _bands(models))
    by_course = {name: _weighed(workspace, models, name, people, groups) for name in courses}
    stored = together(
        (weighed.rows for weighed in by_course.values()), pandas_types(tables.importance)
    )
    if len(stored):
        store.write_importance(workspace.connection, stored)
        _weigh_everywhere(workspace)
    return by_course


def _bands(models: Models) -> Bands:
    """Return the bands of the ensemble's audit; no bands if there is no ensemble."""
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
    types = pandas_types(tables.importance)
    explanations = store.read_explanations(workspace.connection, [course], workspace.as_of)
    if not explanations:
        return Weighed(course, empty(types), reason="no running enrollment is explained")
    reference, reason = _reference(workspace, models, course, explanations)
    rows = weigh(explanations, people, groups, reference, workspace.seed)
    rows = rows.assign(
        course_id=course, as_of=pd.Timestamp(workspace.as_of), model=explanations[0].model
    )
    alarms = rows[rows["alarm"].astype(bool)]
    names = tuple(f"{row.feature} ({row.task})" for row in alarms.itertuples())
    return Weighed(course, rows.reindex(columns=list(types)), names, reason)


def _reference(
    workspace: Workspace, models: Models, course: str, explanations: Sequence[Explanation]
) -> tuple[pd.DataFrame, str]:
    """Return `REFERENCE` in training terms of the same phase, and the reason if there is none.

    It is computed once for each version of the model.
    """
    served, nothing = models.serving(course), empty(REFERENCE)
    known_progress = [
        x for explanation in explanations if (x := explanation.values.get("progress")) is not None
    ]
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
    """Return the stored snapshots of a course with the other columns that a model reads.

    Rows with an infinite number are left out: no library reads them, and the other rows would fail.
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
    """The decision paths of one course's running enrollments: section, student and path."""

    paths: tuple[tuple[str, str, Path], ...]
    degraded: tuple[str, ...] = ()


def paths(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Ways]:
    """Store each running enrollment's decision paths, and return those of each course."""
    before = store.summary(workspace.connection, courses, workspace.as_of, tables.decision_path)
    known = set(loading.keys(before))
    failed = [loading.no_odd()]
    for batch in batches(workspace, models, courses, loading.by_course):
        if len(batch.without(known)):
            failed.append(_write_paths(workspace, batch))
    odd = pd.concat(failed)
    by_course: dict[str, list[tuple[str, str, Path]]] = {name: [] for name in courses}
    for course, *path in store.read_paths(workspace.connection, courses, workspace.as_of):
        by_course[course].append(tuple(path))  # type: ignore[arg-type]
    return {
        name: Ways(tuple(own), tuple(_left_out("decision path", name, odd)))
        for name, own in by_course.items()
    }


def _write_paths(workspace: Workspace, batch: Batch) -> pd.DataFrame:
    """Store the decision paths of one course; return the rows that failed."""
    course, model = str(batch.state["course_id"].iloc[0]), batch.served.model
    snapshots = _every(workspace, course, model.features, SETTINGS.surrogate_rows)
    trees = Trees.of(model, snapshots, workspace.seed)
    done, odd = settled(batch, lambda part: (trees.paths(part.rows), part.state))
    for of_rows, state in done:
        for own in of_rows:
            tree, body = [path.tree.split()[0] for path in own], [path.to_json() for path in own]
            store.write_paths(workspace.connection, state.assign(tree=tree, body=body))
    return odd


def fairness(workspace: Workspace, models: Models) -> tuple[pd.DataFrame, str]:
    """Compute and store the fairness of the ensemble; return it, or the reason if it is unknown."""
    registry = workspace.registry
    try:
        version, pooled = models.pooled_champion()
        students = read_table(workspace.connection, schema.student)
        enrollments = read_table(workspace.connection, schema.enrollment)
        used = registry.pseudonyms, registry.declared
        rows = with_attributes(pooled.held_out, students, enrollments, *used)
        figures = figures_of_groups(rows, workspace.seed, pooled.bands)
    except NotReadyError as error:
        return empty(pandas_types(tables.fairness)), str(error)
    if figures.empty:
        return figures, "no protected attribute has two groups that are large enough"
    figures = figures.assign(
        as_of=pd.Timestamp(workspace.as_of), model=f"{version.name} {version.version}"
    )
    store.write_fairness(workspace.connection, figures)
    return figures, ""


def effects(
    workspace: Workspace, models: Models, courses: Sequence[str], features: Sequence[str]
) -> list[Effect]:
    """Return the effects of `features` in the rows of the model that serves the most rows."""
    rows = current_snapshots(workspace, courses)
    served, own = max(by_model(models, rows, courses), key=lambda pair: len(pair[1]))
    if own.empty:
        return []
    sample = own.sample(min(1000, len(own)), random_state=workspace.seed)
    ready = beside(workspace.connection, sample.reset_index(drop=True), served.model.features)
    curves = (effect(served.model, ready, name) for name in features)
    return [curve for curve in curves if curve is not None]


#: Chooses the students of a course who get advice; returns its subject by place in predictions.
Choose = Callable[[str, pd.DataFrame], "pd.Series[Any]"]
#: Makes one enrollment's advice on a subject; None if there is no advice.
Make = Callable[[Case, Any], Mapping[str, Any] | None]


def narratives(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Advice]:
    """Write and store the narratives of every explained prediction, by reader and language."""

    def choose(course: str, predicted: pd.DataFrame) -> pd.Series[Any]:
        del course
        return pd.Series("", predicted.index)

    return _advise(workspace, models, Kind.NARRATIVE, courses, choose, lambda *_: _narratives)


def _narratives(case: Case, _: str) -> dict[str, Any]:
    figures = case.predicted["lower80"], case.predicted["upper80"]
    return advice.narratives(narrated.Explained(case.explanation, *figures))


def second_opinions(
    workspace: Workspace, models: Models, courses: Sequence[str]
) -> dict[str, Advice]:
    """Make LIME's explanations of students at risk, near the pass mark, or in dispute.

    In dispute are predictions from which the challenger's differs.
    """
    if "lime" in _EXPLAIN.missing():
        why = f"{absence('lime')}: no second opinions"
        return dict.fromkeys(courses, Advice(degraded=(why,)))
    version = workspace.registry.get(POOLED, Alias.CHALLENGER)
    challenger = (
        read_shadows(workspace.connection, version, as_of=workspace.as_of) if version else None
    )

    def choose(course: str, predicted: pd.DataFrame) -> pd.Series[Any]:
        pass_mark = workspace.institution.pass_mark_of(course)
        return advice.in_doubt(predicted, challenger, pass_mark)

    def prepare(course: str, cases: Sequence[Case]) -> Make:
        snapshots = _every(workspace, course, cases[0].served.model.features)
        known: dict[tuple[str, float], Neighbours] = {}

        def make(case: Case, reason: str) -> dict[str, Any] | None:
            model, progress = case.served.model, float(case.row["progress"].iloc[0])
            place = case.explanation.section_id, progress
            if place not in known:
                known[place] = neighbours(model, snapshots, progress, workspace.seed)
            return advice.second_opinion(case, reason, known[place], workspace.seed)

        return make

    return _advise(workspace, models, Kind.SECOND_OPINION, courses, choose, prepare)


def what_ifs(workspace: Workspace, models: Models, courses: Sequence[str]) -> dict[str, Advice]:
    """Find changes that bring students who are at risk, or close to their next goal, to it."""

    def choose(course: str, predicted: pd.DataFrame) -> pd.Series[Any]:
        return advice.aims(predicted, workspace.institution.goals_of(course))

    def prepare(course: str, cases: Sequence[Case]) -> Make:
        del cases
        gradebook = frames.read(workspace.connection, {course})
        carried: dict[str, Continuation] = {}

        def make(case: Case, goal: float) -> dict[str, Any]:
            section = case.explanation.section_id
            if section not in carried:
                day = case.row["cut_on"].iloc[0].date()
                carried[section] = Continuation(gradebook, section, day)
            model, seed = case.served.model, workspace.seed
            return answers(model, carried[section], case.row, goal, seed).to_dict()

        return make

    return _advise(workspace, models, Kind.WHAT_IF, courses, choose, prepare)


def _advise(  # noqa: PLR0913, PLR0917 - what differs between the three kinds
    workspace: Workspace,
    models: Models,
    kind: Kind,
    courses: Sequence[str],
    choose: Choose,
    prepare: Callable[[str, Sequence[Case]], Make],
) -> dict[str, Advice]:
    """Make and store the advice that is out of date; return all advice of today.

    Students are chosen among all: if they were chosen among those without advice, each run would
    advise more students.
    """
    connection, day = workspace.connection, workspace.as_of
    fresh, failed = dict.fromkeys(courses, 0), [loading.no_odd()]
    for name, rows in _explained_rows(workspace, kind, courses).groupby("course_id"):
        course, predicted = str(name), loading.predicted(workspace, rows)
        subjects = choose(course, predicted)
        chosen = predicted.loc[subjects.index]
        due = chosen[chosen["known"].isna()]
        cases = loading.cases(workspace, models, course, due) if len(due) else []
        if not cases:
            continue
        keys = due[ENROLLMENT].itertuples(index=False, name=None)
        about = dict(zip(keys, subjects[due.index], strict=True))
        make = prepare(course, cases)
        jobs = [(case, partial(make, case, about[case.key])) for case in cases]
        bodies, odd = _bodies(jobs, course)
        failed.append(odd)
        fresh[course] = len(bodies)
        if len(bodies):
            store.write_advice(connection, kind, due, bodies)
    known = store.read_advice(connection, kind, courses, day)
    odd = pd.concat(failed)
    subject = kind.replace("_", " ")
    return {
        name: Advice(
            known.get(name, ()), fresh[name], _less(subject, name, known.get(name, ()), odd)
        )
        for name in courses
    }


def _explained_rows(workspace: Workspace, kind: Kind, courses: Collection[str]) -> pd.DataFrame:
    """Return the explained rows, and in the column `known` whether they have that advice."""
    connection, day = workspace.connection, workspace.as_of
    explained = store.summary(connection, courses, day)
    advised = store.summary(connection, courses, day, tables.advice)
    advised = advised.loc[advised["kind"] == str(kind), loading.STATE].assign(known=True)
    return explained.merge(advised, on=loading.STATE, how="left")


def _bodies(
    jobs: Sequence[tuple[Case, Callable[[], Mapping[str, Any] | None]]], course: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return section_id, student_id and body of what the jobs make, and those that fail."""
    keys = pd.DataFrame([case.key for case, _ in jobs], columns=ENROLLMENT)
    keys = keys.assign(course_id=course)
    made: dict[int, str] = {}

    def work(places: Sequence[int]) -> None:
        for place in places:
            # After a failure `settle` calls again for the others: nothing is made twice.
            if place not in made:
                body = jobs[place][1]()
                made[place] = json.dumps(body) if body else ""

    _, failed = settle(range(len(jobs)), work)
    known = {place: made[place] for place in sorted(made) if made[place]}
    bodies = keys.loc[list(known), ENROLLMENT].assign(body=list(known.values()))
    return bodies, loading.odd(keys, failed)


def _less(
    subject: str, course: str, bodies: Iterable[Mapping[str, Any]], odd: pd.DataFrame
) -> tuple[str, ...]:
    degraded = [reason for body in bodies for reason in body.get("degraded", ())]
    return tuple(dict.fromkeys([*degraded, *_left_out(subject, course, odd)]))
