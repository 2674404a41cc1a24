"""Explains the current predictions of chosen courses as of a day, and stores it.

Here stored things are brought together; what each figure is stands in the module of its name. Only
what changed, the model or what it reads, is computed anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import numpy as np
import pandas as pd
from sqlalchemy import Connection

from grade_ml.core.errors import NotReadyError
from grade_ml.core.frames import empty, together
from grade_ml.core.hashing import hash_rows
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.baseline import BaselineModel
from grade_ml.ensemble.course import CourseModel
from grade_ml.ensemble.encoding import Encoder
from grade_ml.ensemble.groups import Bands, grouped
from grade_ml.ensemble.members import Task
from grade_ml.ensemble.members.contract import View
from grade_ml.ensemble.pooled import NAME as POOLED
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import ROW
from grade_ml.explanations import store
from grade_ml.explanations.attribution import explain
from grade_ml.explanations.contract import TOLERANCE, Explanation
from grade_ml.explanations.decision_paths import Path, Surrogate, member_paths
from grade_ml.explanations.effects import Effect, effect
from grade_ml.explanations.fairness import fairness, with_attributes
from grade_ml.explanations.importance import (
    REFERENCE,
    everywhere,
    expected,
    importance,
    judged,
    phase_of,
    retrain_spread,
)
from grade_ml.explanations.settings import SETTINGS
from grade_ml.features.attributes import protected_columns
from grade_ml.features.store import Frames
from grade_ml.features.surroundings import beside
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import read_table
from grade_ml.gradebook.institution import DEFAULTS, Institution
from grade_ml.registry.registry import Registry
from grade_ml.serving.models import Models, Served
from grade_ml.serving.scoring import by_model, current_snapshots
from grade_ml.training.baseline import TrainingData, finished_in

_IMPORTANCE = store.types_of(store.importance)


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


@dataclass(frozen=True)
class Weighed:
    """The importance of one course's features, as it was stored, and what is said of it.

    `alarms` are the features whose share left its band; `reason` tells why there is no band.
    """

    course_id: str
    rows: pd.DataFrame
    alarms: tuple[str, ...] = ()
    reason: str = ""


@dataclass
class Explainer:
    """The explanations of one installation on one day.

    Raises
    ------
    NotReadyError
        No model has been trained, or no snapshots have been computed.
    """

    connection: Connection
    registry: Registry
    root: str
    as_of: date
    seed: int = 0
    institution: Institution = DEFAULTS

    @cached_property
    def _frames(self) -> Frames:
        return Frames(self.root, self.as_of, self.registry.pseudonyms)

    @cached_property
    def _models(self) -> Models:
        return Models(self.registry)

    def attributions(self, courses: Collection[str]) -> dict[str, Explained]:
        """Explain and store the current prediction of every running enrollment of `courses`."""
        rows = current_snapshots(self.connection, self._frames, courses)
        before = store.summary(self.connection, courses, self.as_of)
        known = set(_keys(before, before["features_hash"]))
        fresh = dict.fromkeys(courses, 0)
        for served, own in by_model(self._models, rows, courses):
            for some in self._some(served, own):
                marks = _features_hash(served, some, self.registry.pseudonyms)
                named = some[ROW[:2]].assign(
                    as_of=some["cut_on"],
                    model_name=served.version.name,
                    model_version=served.version.version,
                )
                new = np.array([key not in known for key in _keys(named, marks)], dtype=bool)
                self._explain(served, some[new], marks[new].tolist())
                for course, count in (
                    some.loc[new, "course_id"].astype(object).value_counts().items()
                ):
                    fresh[str(course)] += int(count)
        after = store.summary(self.connection, courses, self.as_of)
        return {name: _explained(name, after, fresh[name]) for name in courses}

    def _some(self, served: Served, rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
        """Yield parts of the rows with the surroundings that the model reads."""
        for first in range(0, len(rows), SETTINGS.rows_at_once):
            part = rows.iloc[first : first + SETTINGS.rows_at_once].reset_index(drop=True)
            yield beside(self.connection, part, served.model.features)

    def _explain(self, served: Served, rows: pd.DataFrame, marks: Sequence[str]) -> None:
        if len(rows):
            told = explain(served.model, rows, self.seed)
            store.write_attributions(
                self.connection, told, rows, marks, served.version, served.degraded
            )

    def importance(self, courses: Sequence[str]) -> dict[str, Weighed]:
        """Weigh the features by the stored explanations of `courses`, and store it.

        With it goes what holds over all courses, from what is known of each of the last week.
        """
        rows = current_snapshots(self.connection, self._frames, courses)
        groups = protected_columns(rows.columns)
        people = rows[["section_id", "student_id", *groups.values()]].astype(
            {"section_id": object, "student_id": object}
        )
        people = grouped(people, "student_id", self._bands)
        found = {name: self._weigh(name, people, groups) for name in courses}
        stored = together((one.rows for one in found.values()), _IMPORTANCE)
        if len(stored):
            store.write_importance(self.connection, stored)
            self._weigh_everywhere()
        return found

    @cached_property
    def _bands(self) -> Bands:
        """The bands of the ensemble's audit; none where there is no ensemble."""
        try:
            return self._models.pooled_champion()[1].bands
        except NotReadyError:
            return {}

    def _weigh(self, course: str, people: pd.DataFrame, groups: Mapping[str, str]) -> Weighed:
        told = store.read_explanations(self.connection, [course], self.as_of)
        if not told:
            nothing = empty(_IMPORTANCE)
            return Weighed(course, nothing, reason="no running enrollment is explained")
        keys = pd.DataFrame(
            {
                "section_id": [one.section_id for one in told],
                "student_id": [one.student_id for one in told],
            }
        ).merge(people, on=["section_id", "student_id"], how="left")
        reference, reason = self._reference(course, _progress(told))
        parts = []
        for task in Task:
            contributions, _ = store.matrix_of(told, task)
            features = [str(name) for name in contributions.columns]
            sizes = contributions.to_numpy(np.float64)
            students = keys["student_id"].to_numpy(dtype=str)
            whole = importance(sizes, features, students, self.seed)
            if whole.empty:
                continue
            own = reference[reference["task"] == str(task)]
            parts.append(
                judged(whole, own).assign(
                    task=str(task), grouping="", group_name="", students=len(set(students))
                )
            )
            main = whole["feature"].head(SETTINGS.watched)
            for name, column in groups.items():
                for value, places in keys.groupby(column, observed=True).indices.items():
                    count = len(set(students[places]))
                    if count >= SETTINGS.least_students:
                        group = importance(sizes[places], features, students[places], self.seed)
                        parts.append(
                            group[group["feature"].isin(main)].assign(
                                task=str(task),
                                grouping=name,
                                group_name=str(value),
                                students=count,
                                alarm=False,
                            )
                        )
        rows = together(parts, _IMPORTANCE).assign(
            course_id=course, as_of=pd.Timestamp(self.as_of), model=told[0].model
        )
        alarms = rows[rows["alarm"].astype(bool)]
        names = [f"{row.feature} ({row.task})" for row in alarms.itertuples()]
        return Weighed(course, rows.reindex(columns=list(_IMPORTANCE)), tuple(names), reason)

    def _reference(self, course: str, progress: float) -> tuple[pd.DataFrame, str]:
        """Return task, feature, share and spread in training terms of the same phase, and why not.

        They are computed once for each version of the model.
        """
        served, phase = self._models.serving(course), phase_of(progress)
        nothing = empty(REFERENCE)
        pooled = _pooled(served)
        if pooled is None:
            return nothing, "the baseline serves; importance is compared within an ensemble only"
        name, version = served.version.name, served.version.version
        known = store.read_reference(self.connection, name, version)
        own = known[(known["course_id"] == course) & (known["phase"] == phase)]
        if len(own):
            return own, ""
        snapshots = self._frames.snapshots([course])
        snapshots = beside(self.connection, snapshots, served.model.features)
        usual = expected(pooled, served.model, snapshots, phase, self.seed)
        if usual.empty:
            return nothing, f"too few students of training terms in the {phase} phase"
        spread = self._spread(pooled, _pooled_version(served))
        retrained = spread.loc[spread["phase"] == phase, ["task", "feature", "spread"]]
        both = usual.merge(retrained, on=["task", "feature"], how="left")
        chance = both[["spread", "error"]].fillna(0.0).to_numpy(np.float64)
        made = both[["task", "feature", "share"]].assign(
            spread=np.hypot(*chance.T),
            model_name=name,
            model_version=version,
            course_id=course,
            phase=phase,
        )
        store.write_reference(self.connection, made)
        return made, ""

    def _spread(self, pooled: PooledModel, version: int) -> pd.DataFrame:
        """Return the spread over retrains, for which members are fitted once for each ensemble."""
        known = store.read_reference(self.connection, POOLED, version)
        known = known[known["course_id"] == store.EVERYWHERE]
        if len(known):
            return known
        results = finished_in(self.connection, self.as_of, self.institution)
        data = TrainingData.stored(self._frames, results, self.registry.declared, self.seed)
        rows = beside(self.connection, data.snapshots, pooled.features)
        found = retrain_spread(pooled, rows, results, self.seed)
        store.write_reference(
            self.connection,
            found.assign(
                model_name=POOLED, model_version=version, course_id=store.EVERYWHERE, share=0.0
            ),
        )
        return found

    def _weigh_everywhere(self) -> None:
        week = self.as_of - timedelta(days=6)
        rows = store.read_importance(self.connection, self.as_of, None, week)
        rows = rows[rows["course_id"] != store.EVERYWHERE]
        newest = rows.groupby("course_id")["as_of"].transform("max")
        rows = rows[rows["as_of"] == newest]
        whole = everywhere(rows).assign(
            course_id=store.EVERYWHERE,
            as_of=pd.Timestamp(self.as_of),
            model=", ".join(sorted(rows["model"].unique())),
            alarm=False,
        )
        store.write_importance(self.connection, whole)

    def paths(self, courses: Sequence[str]) -> dict[str, list[tuple[str, str, Path]]]:
        """Store each running enrollment's ways through trees.

        Returns
        -------
        dict
            Section, student and path of the enrollments of each course.
        """
        rows = current_snapshots(self.connection, self._frames, courses)
        before = store.summary(self.connection, courses, self.as_of, store.decision_path)
        known = set(_keys(before, before["features_hash"]))
        for served, own in by_model(self._models, rows, courses):
            for course, some in own.groupby("course_id", observed=True):
                ready = beside(self.connection, some.reset_index(drop=True), served.model.features)
                marks = _features_hash(served, ready, self.registry.pseudonyms)
                named = ready[ROW[:2]].assign(
                    as_of=ready["cut_on"],
                    model_name=served.version.name,
                    model_version=served.version.version,
                )
                if not set(_keys(named, marks)) <= known:
                    self._paths_of(str(course), served, ready, marks)
        found: dict[str, list[tuple[str, str, Path]]] = {name: [] for name in courses}
        for course, *path in store.read_paths(self.connection, courses, self.as_of):
            found[course].append(tuple(path))  # type: ignore[arg-type]
        return found

    def _paths_of(self, course: str, served: Served, rows: pd.DataFrame, marks: pd.Series) -> None:
        every = self._frames.snapshots([course])
        every = every.sample(min(SETTINGS.surrogate_rows, len(every)), random_state=self.seed)
        every = beside(self.connection, every.reset_index(drop=True), served.model.features)
        grade = served.model.predict(every)["grade"].to_numpy(np.float64)
        surrogate = Surrogate.fit(every, grade, _encoder(served), self.seed)
        found: list[list[Path]] = []
        if surrogate is not None:
            found.append(list(surrogate.paths(rows)))
        pooled = _pooled(served)
        if pooled is not None and Task.GRADE in pooled.parts:
            found.append(member_paths(pooled.parts[Task.GRADE], rows) or [])
        for paths in filter(None, found):
            frame = rows[ROW[:2]].astype(object)
            store.write_paths(
                self.connection,
                frame.assign(
                    as_of=rows["cut_on"],
                    tree=[one.tree.split()[0] for one in paths],
                    course_id=course,
                    model_name=served.version.name,
                    model_version=served.version.version,
                    features_hash=marks.to_numpy(),
                    body=[one.to_json() for one in paths],
                ),
            )

    def fairness(self) -> tuple[pd.DataFrame, str]:
        """Measure and store how groups fare with the ensemble; return it, or why it is unknown."""
        try:
            version, pooled = self._models.pooled_champion()
            students = read_table(self.connection, schema.student)
            enrollments = read_table(self.connection, schema.enrollment)
            used = self.registry.pseudonyms, self.registry.declared
            rows = with_attributes(pooled.held_out, students, enrollments, *used)
            found = fairness(rows, self.seed, pooled.bands)
        except NotReadyError as error:
            return empty(store.types_of(store.fairness)), str(error)
        if found.empty:
            return found, "no protected attribute has two groups that are large enough"
        model = f"{version.name} {version.version}"
        store.write_fairness(
            self.connection, found.assign(as_of=pd.Timestamp(self.as_of), model=model)
        )
        return found, ""

    def effects(self, courses: Sequence[str], features: Sequence[str]) -> list[Effect]:
        """Return the effects of `features` in the current rows of the model most of them have."""
        rows = current_snapshots(self.connection, self._frames, courses)
        served, own = max(by_model(self._models, rows, courses), key=lambda one: len(one[1]))
        if own.empty:
            return []
        some = own.sample(min(1000, len(own)), random_state=self.seed)
        ready = beside(self.connection, some.reset_index(drop=True), served.model.features)
        found = (effect(served.model, ready, name) for name in features)
        return [one for one in found if one is not None]


def _features_hash(served: Served, rows: pd.DataFrame, pseudonyms: Pseudonyms) -> pd.Series:
    read = [name for name in served.model.features if name in rows]
    hashes = hash_rows(rows[list(dict.fromkeys([*ROW, *read]))], pseudonyms)
    return hashes.map("{:016x}".format)


def _keys(rows: pd.DataFrame, marks: pd.Series) -> Iterator[tuple[object, ...]]:
    """Yield what tells one row's explanation from another's."""
    names = ("section_id", "student_id", "as_of", "model_name", "model_version")
    columns = [rows[name].astype(str) for name in names]
    yield from zip(*columns, marks, strict=True)


def _explained(course: str, rows: pd.DataFrame, fresh: int) -> Explained:
    own = rows[rows["course_id"] == course]
    worst = own[["grade_error", "risk_error"]].max().fillna(0.0)
    reasons = [reason for text in own["degraded"].unique() for reason in json.loads(text)]
    return Explained(
        course,
        len(own),
        fresh,
        float(worst["grade_error"]),
        float(worst["risk_error"]),
        tuple(dict.fromkeys(reasons)),
    )


def _progress(told: Sequence[Explanation]) -> float:
    return float(np.median([one.values.get("progress") or 0.0 for one in told]))


def _pooled(served: Served) -> PooledModel | None:
    model = served.model
    if isinstance(model, CourseModel):
        return model.pooled
    return model if isinstance(model, PooledModel) else None


def _pooled_version(served: Served) -> int:
    model = served.model
    return model.pooled_version if isinstance(model, CourseModel) else served.version.version


def _encoder(served: Served) -> Encoder:
    """Return an encoder of what the model of the grade reads, on the course's own scale."""
    pooled = _pooled(served)
    if pooled is None:
        assert isinstance(served.model, BaselineModel)
        return served.model.encoder
    part = pooled.parts.get(Task.GRADE) or next(iter(pooled.parts.values()))
    return part.encoders[View.OWN_SCALE]
