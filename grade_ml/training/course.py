"""The courses' corrections of the pooled champion in a nightly run: data, fit, transition.

A correction is kept if it is better, so its verdict is the fit's own (see `ensemble.course`). Each
course is read, fitted, registered and recorded by itself: an interrupted nightly run continues with
the courses that are left.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from grade_ml.core.errors import NotReadyError
from grade_ml.core.hashing import digest, section_hashes
from grade_ml.core.policy import TablePolicy
from grade_ml.ensemble import course as courses
from grade_ml.ensemble.course import Change, CourseModel, Fitted
from grade_ml.ensemble.names import name_of
from grade_ml.ensemble.pooled import PooledModel
from grade_ml.ensemble.rows import began_on, join, naive_grade, versions_of
from grade_ml.features.surroundings import beside
from grade_ml.registry.history import Stage
from grade_ml.registry.registry import Alias, ModelVersion
from grade_ml.registry.transition import Evidence, Stages
from grade_ml.registry.workspace import Opening, Workspace
from grade_ml.serving.models import Models
from grade_ml.serving.predictions import metadata
from grade_ml.training.data import finished_in
from grade_ml.training.steps import program, promote, register

course_training = sa.Table(
    "course_training",
    metadata,
    sa.Column("course_id", sa.Text, primary_key=True),
    sa.Column("data_version", sa.Text, nullable=False),
    sa.Column("code_version", sa.Text, nullable=False),
    sa.Column("kept", sa.Boolean, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("trained_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column(
        "changed_on",
        sa.Date,
        comment="day from which on the model allows for changed scores; null: it does not",
    ),
    sa.Column(
        "changed_share",
        sa.Double,
        comment="share by which these scores are higher (above 0) or lower",
    ),
    info=TablePolicy("training", time="trained_at").info,
)


@dataclass(frozen=True)
class CourseOutcome:
    """The outcome of one course's training; `fitted` is False if nothing changed.

    `version` is the version of the model, if one was registered.
    """

    course_id: str
    kept: bool
    fitted: bool
    reason: str
    model: CourseModel | None = None
    version: int | None = None


def train(
    course_ids: Sequence[str],
    opened: Opening,
    changes: Mapping[str, Change] = MappingProxyType({}),
) -> Iterator[CourseOutcome]:
    """Fit each course's correction of the pooled champion, and keep it if it is better.

    Sections that the pooled champion knows contribute its held-out predictions; sections that ended
    since contribute its predictions of their stored snapshots. Sections whose data changed since
    contribute nothing, for the champion has seen their former data. Without a champion nothing is
    fitted, and the outcomes give that reason.

    Parameters
    ----------
    opened
        Opens a transaction, for as long as something is read or recorded.
    changes
        The change that recent scores of running sections show, by course. It replaces the evidence
        of ended sections; a course without a new change keeps the change that it knows.

    Raises
    ------
    NotReadyError
        No snapshots of a course have been computed.
    """
    with opened() as workspace:
        stages = workspace.stages
    stages.reconcile()
    try:
        version, pooled = Models(stages.registry).pooled_champion()
    except NotReadyError as error:
        # No reason to stop: the next model in line predicts.
        yield from (CourseOutcome(course, False, False, error.message) for course in course_ids)
        return
    with opened() as workspace:
        data = _Data.read(workspace, course_ids, version, pooled)
    for course_id in course_ids:
        yield _train(course_id, data, opened, changes.get(course_id))


@dataclass(frozen=True)
class _Data:
    """What the corrections of all courses of a run learn from.

    Attributes
    ----------
    sections
        By course, per section a text that changes with its snapshots or results.
    held_out
        The pooled champion's predictions of rows it had not seen, by course.
    done
        The outcome of each course's last training: rows of `course_training`.
    """

    stages: Stages
    seed: int
    version: ModelVersion
    pooled: PooledModel
    sections: Mapping[str, Mapping[str, str]]
    results: pd.DataFrame
    held_out: Mapping[str, pd.DataFrame]
    done: Mapping[str, Any]

    @classmethod
    def read(
        cls,
        workspace: Workspace,
        course_ids: Sequence[str],
        version: ModelVersion,
        pooled: PooledModel,
    ) -> _Data:
        results = finished_in(workspace.connection, workspace.as_of, workspace.institution)
        truth = section_hashes(results, workspace.registry.pseudonyms)
        hashed = workspace.frames.hashes(course_ids)
        done = workspace.connection.execute(sa.select(course_training)).all()
        return cls(
            workspace.stages,
            workspace.seed,
            version,
            pooled,
            {name: versions_of(of_course, truth) for name, of_course in hashed.items()},
            results,
            {str(name): rows for name, rows in pooled.held_out.groupby("course_id")},
            {row.course_id: row for row in done},
        )

    def rows(self, course_id: str, opened: Opening) -> pd.DataFrame:
        """Return rows of the course's sections, known to the pooled champion or not.

        One row per prediction that the pooled model made without having seen the section.
        """
        seen, now = self.pooled.section_versions, self.sections[course_id]
        known = self.held_out.get(course_id, self.pooled.held_out.head(0))
        same = [name for name in now if seen.get(name) == now[name]]
        rows = known[known["section_id"].isin(same)]
        new = [name for name in now if name not in seen]
        if not new:
            return rows
        with opened() as workspace:
            fresh = _fresh(workspace, course_id, self.results, new, self.pooled)
        return pd.concat([rows, fresh], ignore_index=True)


def _train(course_id: str, data: _Data, opened: Opening, change: Change | None) -> CourseOutcome:
    of_data = f"{data.version.version}-{digest(data.sections[course_id])}"
    before = data.done.get(course_id)
    previous = (before.changed_on, before.changed_share) if before else _NOTHING
    allowed = _recorded(change) if change else _NOTHING
    now = allowed if change else previous
    known = (before.data_version, previous, before.code_version) if before else None
    if before and known == (of_data, now, program()):
        return CourseOutcome(course_id, before.kept, False, f"nothing changed: {before.reason}")
    rows = data.rows(course_id, opened)
    stages, fitted = data.stages, courses.fit(rows, data.pooled, data.seed)
    if change and change.share:
        shown = fitted.evaluation or data.pooled.evaluation
        fitted = Fitted(courses.changed(change, data.pooled), str(change), shown, change.gained)
    name, model, number = name_of(course_id), None, None
    if fitted.correction and fitted.evaluation and fitted.gained:
        model = CourseModel(
            course_id,
            data.pooled,
            data.version.version,
            fitted.correction,
            tuple(sorted(rows["section_id"].unique())),
            fitted.evaluation,
            fitted.gained,
            allowed[0],
        )
        version = register(
            stages.registry,
            name,
            model,
            parameters={"pooled_version": model.pooled_version},
            data_version=of_data,
            trained_at=stages.now,
        )
        number = version.version
        promote(stages, version, Evidence(fitted.reason, model.gained.figures))
    elif champion := stages.registry.get(name, Alias.CHAMPION):
        stages.transition(champion, Stage.RETIRED, Evidence(fitted.reason))
    with opened() as workspace:
        _remember(workspace, course_id, of_data, fitted, allowed)
    return CourseOutcome(course_id, model is not None, True, fitted.reason, model, number)


#: Since when and by which share scores have changed, as far as a training knows.
_KnownChange = tuple[date | None, float | None]
_NOTHING: _KnownChange = (None, None)


def _recorded(change: Change) -> _KnownChange:
    """Return what is recorded of the change, rounded: a smaller difference is no news."""
    return (change.since, round(change.share, 2)) if change.share else _NOTHING


def changed_since(connection: Connection) -> dict[str, date]:
    """Return the courses with a known change of scores, and its first day."""
    column = course_training.c
    rows = connection.execute(
        sa.select(column.course_id, column.changed_on).where(column.changed_on.is_not(None))
    )
    return {row.course_id: row.changed_on for row in rows}


def _fresh(
    workspace: Workspace,
    course_id: str,
    results: pd.DataFrame,
    sections: list[str],
    pooled: PooledModel,
) -> pd.DataFrame:
    """Return rows of sections that the pooled model has not seen, as its held-out rows are."""
    snapshots = workspace.frames.snapshots([course_id])
    chosen = snapshots[snapshots["section_id"].astype(str).isin(sections)]
    rows = join(chosen, results).reset_index(drop=True)
    raw = pooled.raw(beside(workspace.connection, rows, pooled.features))
    described = pd.concat([rows[["final_grade", "at_risk"]], raw], axis=1)
    return described.assign(
        section_id=rows["section_id"].astype(str),
        student=workspace.registry.pseudonyms.of(rows["student_id"]),
        began_on=began_on(rows),
        naive=naive_grade(rows),
        raw_grade=raw["grade"],
        raw_risk=raw["risk"],
    )


def _remember(
    workspace: Workspace, course_id: str, data: str, fitted: Fitted, allowed: _KnownChange
) -> None:
    values = {
        "data_version": data,
        "code_version": program(),
        "kept": fitted.correction is not None,
        "reason": fitted.reason,
        "trained_at": workspace.now,
        "changed_on": allowed[0],
        "changed_share": allowed[1],
    }
    workspace.connection.execute(
        insert(course_training)
        .values(course_id=course_id, **values)
        .on_conflict_do_update(index_elements=["course_id"], set_=values)
    )
