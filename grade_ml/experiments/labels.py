"""Scores and outcomes, with what two versions of a model had predicted of them.

A label counts if both versions had predicted it after the experiment began and before it was known.
The evidence of labels is computed in `look`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import distinct_on

from grade_ml.core.database import read_frame
from grade_ml.core.frames import empty, together
from grade_ml.core.hashing import hash_rows
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.ensemble.evaluation import phases
from grade_ml.ensemble.groups import grouped
from grade_ml.experiments.coursework import SETTINGS as COURSEWORK
from grade_ml.experiments.coursework import coursework, placed, worth
from grade_ml.experiments.plan import Metric, Plan
from grade_ml.experiments.population import attributes
from grade_ml.features.attributes import protected_columns
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook, read_table
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import newest_before
from grade_ml.serving.predictions import shadow_prediction

#: Courses whose records are in memory together.
AT_ONCE = 50
ARMS = ("control", "treatment")
_SEAT = ["section_id", "student"]
_ERRORS = [f"{arm}_error" for arm in ARMS]
_LABEL = {
    **dict.fromkeys(("section_id", "course", "phase", "item"), "object"),
    "student": "uint64",
    "arrived_on": "datetime64[ns]",
    **dict.fromkeys((*ARMS, *_ERRORS), "float64"),
}
#: What an outcome is compared with.
_PREDICTED = ("grade", "risk", "lower80", "upper80")
_OUTCOME = {
    "student": "uint64",
    "final_grade": "float64",
    "at_risk": "boolean",
    **{f"{arm}_{name}": "float64" for arm in ARMS for name in _PREDICTED},
}


@dataclass(frozen=True)
class Labels:
    """The labels of one experiment on a day, and the number that was left out.

    Attributes
    ----------
    rows
        One row per label: section_id, course, student (a pseudonym), item (the assignment; of an
        outcome, the section), phase (the third of the section in which it was due; empty of an
        outcome, which is of the whole), arrived_on, control and treatment (the loss of each;
        missing if the version had no prediction), control_error and treatment_error (prediction
        less truth). The losses of an outcome are means over the weeks in which it
        was predicted.
    outcomes
        Of sections that ended, one row per enrollment and week: student, final_grade, at_risk, and
        the predictions of each arm: control_grade, control_risk, control_lower80, control_upper80.
    groups
        Per student (the index) the group by each protected attribute (`protected_…`).
    early
        Labels that arrived before their first prediction, or on the first day.
    stale
        Labels without a prediction in the last weeks before.
    data_version
        See `version`.
    """

    rows: pd.DataFrame
    outcomes: pd.DataFrame
    groups: pd.DataFrame
    early: int
    stale: int
    data_version: str

    @property
    def by_student(self) -> pd.DataFrame:
        """Per student (the index) the mean loss of each arm; missing if one of its losses is."""
        return means(self.rows, ARMS)

    @property
    def by_segment(self) -> pd.DataFrame:
        """The labels with the columns that separate segments."""
        return self.rows.join(self.groups, on="student")


def means(rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the mean of each student's rows (index: student), missing if a value is."""
    numbers = rows[list(columns)]
    finite = numbers.where(np.isfinite(numbers))
    whole = finite.notna().groupby(rows["student"]).all()
    averages: pd.DataFrame = finite.groupby(rows["student"]).mean().where(whole)
    return averages


def read(workspace: Workspace, plan: Plan) -> Labels:
    """Read the labels of an experiment that compares two versions of a model.

    A student who is in none of the sections any more is left out.
    """
    sections = _sections(workspace.connection, plan, workspace.as_of)
    courses = sections["course_id"].unique()
    chunks = [courses[at : at + AT_ONCE] for at in range(0, len(courses), AT_ONCE)]
    parts = [
        _of_courses(workspace, plan, sections[sections["course_id"].isin(chunk)])
        for chunk in chunks
    ]
    rows = together((part.rows for part in parts), _LABEL)
    return Labels(
        rows,
        together((part.outcomes for part in parts), _OUTCOME),
        _groups(workspace, [part.enrollments for part in parts]),
        sum(part.early for part in parts),
        sum(part.stale for part in parts),
        version(rows, workspace.registry.pseudonyms),
    )


def version(rows: pd.DataFrame, pseudonyms: Pseudonyms) -> str:
    """Return what identifies a set of labels; keyed, so that it reveals nothing about a student."""
    total = hash_rows(rows, pseudonyms).sum() if len(rows) else 0
    return f"{len(rows)}-{int(total):016x}"


def _groups(workspace: Workspace, enrollments: Sequence[pd.DataFrame]) -> pd.DataFrame:
    if not enrollments:
        return empty({"student": "uint64"}).set_index("student")
    rows = pd.concat(enrollments, ignore_index=True)
    named = rows[["section_id", "student_id"]].astype(object)
    columns = attributes(workspace.connection, named, workspace.registry.declared)
    protected = columns[[*protected_columns(columns.columns).values()]]
    people = protected.assign(student=rows["student"]).drop_duplicates("student", keep="last")
    return grouped(people.reset_index(drop=True), "student").set_index("student")


def _sections(connection: Connection, plan: Plan, as_of: date) -> pd.DataFrame:
    """Return the sections that ran between the experiment's first day and the current day."""
    column = schema.section.c
    conditions = [column.ends_on >= plan.starts_on, column.starts_on <= as_of]
    if plan.courses:
        conditions.append(column.course_id.in_(plan.courses))
    rows = read_table(connection, schema.section, *conditions)
    return rows.astype({"section_id": object, "course_id": object})


@dataclass(frozen=True)
class _CourseLabels:
    """Labels of some courses; `enrollments` has section_id, student_id and student."""

    rows: pd.DataFrame
    outcomes: pd.DataFrame
    enrollments: pd.DataFrame
    early: int
    stale: int


def _of_courses(workspace: Workspace, plan: Plan, sections: pd.DataFrame) -> _CourseLabels:
    connection, pseudonyms = workspace.connection, workspace.registry.pseudonyms
    names = sections["section_id"].tolist()
    assignment, result, enrollment = schema.assignment, schema.result, schema.enrollment
    assignments = read_table(connection, assignment, assignment.c.section_id.in_(names))
    within = sa.select(assignment.c.assignment_id).where(assignment.c.section_id.in_(names))
    results = read_table(connection, result, result.c.assignment_id.in_(within))
    enrollments = read_table(connection, enrollment, enrollment.c.section_id.in_(names))
    gradebook = Gradebook(
        sections=sections.reset_index(drop=True).astype({"section_id": "string[pyarrow]"}),
        enrollments=enrollments,
        assignments=assignments,
        results=results,
    )
    seats = enrollments.assign(student=pseudonyms.of(enrollments["student_id"]))
    over = _over(workspace, plan, gradebook, seats)
    weekly = _weekly(workspace, plan, over)
    if plan.metric is Metric.SCORE_ERROR:
        predictions = _implied(workspace, plan, names)
        rows, alone = _scored(_settled(workspace, plan, gradebook), predictions)
    else:
        predictions = weekly
        rows, alone = _judged(over, predictions, plan.metric)
    first = predictions.groupby(_SEAT)["on"].min().rename("first_on").reset_index()
    later = alone.merge(first, on=_SEAT)
    early = int((later["first_on"] >= later["arrived_on"]).sum())
    ended = over[over["ended"]].merge(weekly, on=_SEAT)
    return _CourseLabels(
        rows[[*_LABEL]].astype(_LABEL),
        ended[[*_OUTCOME]].astype(_OUTCOME),
        seats,
        early,
        len(alone) - early,
    )


#: The true column, and the prediction of it.
_TRUTH = {
    Metric.GRADE_ERROR: ("final_grade", "grade"),
    Metric.RISK_ERROR: ("at_risk", "risk"),
}


def _over(
    workspace: Workspace, plan: Plan, gradebook: Gradebook, seats: pd.DataFrame
) -> pd.DataFrame:
    """Return the outcomes that arrived after the experiment began, and if their section ended.

    Only `Metric.RISK_ERROR` counts a withdrawal from a running section.
    """
    known = outcomes(gradebook, workspace.as_of, workspace.institution)
    keys = ["section_id", "student_id"]
    rows = known.merge(seats[[*keys, "student", "withdrawn_on"]], on=keys).merge(
        gradebook.sections[["section_id", "course_id", "ends_on"]], on="section_id"
    )
    after = rows["ends_on"] + pd.Timedelta(days=1)
    rows["arrived_on"] = after.where(~(rows["withdrawn_on"] < after), rows["withdrawn_on"])
    rows["ended"] = after <= pd.Timestamp(workspace.as_of)
    counts = rows["arrived_on"] > pd.Timestamp(plan.starts_on)
    if plan.metric is not Metric.RISK_ERROR:
        counts &= rows["ended"]
    rows = rows[counts]
    return rows.astype({"section_id": object}).reset_index(drop=True)


def _both(plan: Plan, columns: Sequence[str]) -> tuple[Any, sa.Select[Any]]:
    """Return the table of the control's shadows, and what both arms predicted at the same times."""
    control, treatment = (shadow_prediction.alias(name) for name in ARMS)
    key = ("section_id", "student_id", "as_of")
    query = sa.select(
        *(control.c[name] for name in key),
        *(
            table.c[name].label(f"{arm}_{name}")
            for arm, table in zip(ARMS, (control, treatment), strict=True)
            for name in columns
        ),
    ).join_from(
        control, treatment, sa.and_(*(control.c[name] == treatment.c[name] for name in key))
    )
    for table, arm in zip((control, treatment), plan.arms, strict=True):
        assert arm.model  # `checked`: an arm of such a plan is a version
        name, version = arm.model
        query = query.where(table.c.model_name == name, table.c.model_version == version)
    return control.c, query.where(control.c.as_of >= plan.starts_on)


def _implied(workspace: Workspace, plan: Plan, names: Sequence[str]) -> pd.DataFrame:
    """Return section_id, student, on, and what each arm implied of scores (its column)."""
    column, query = _both(plan, ["implied"])
    rows = read_frame(
        workspace.connection,
        query.where(column.section_id.in_(names), column.as_of < workspace.as_of),
    ).rename(columns={"as_of": "on", **{f"{arm}_implied": arm for arm in ARMS}})
    # Both are missing if too little was to come: no score could contradict them.
    rows = rows[rows[list(ARMS)].notna().any(axis=1)].astype({"section_id": object})
    return rows.assign(student=workspace.registry.pseudonyms.of(rows["student_id"])).drop(
        columns="student_id"
    )


def _weekly(workspace: Workspace, plan: Plan, over: pd.DataFrame) -> pd.DataFrame:
    """Return section_id, student, on and `_PREDICTED` of each arm: the newest of each week.

    Only of sections in which an outcome is known: daily predictions of a whole term are many.
    """
    names = over["section_id"].unique().tolist()
    column, query = _both(plan, _PREDICTED)
    week = sa.func.div(column.as_of - sa.literal(plan.starts_on), 7)
    rows = read_frame(
        workspace.connection,
        query.where(column.section_id.in_(names), column.as_of <= workspace.as_of)
        .ext(distinct_on(column.section_id, column.student_id, week))
        .order_by(column.section_id, column.student_id, week, column.as_of.desc()),
    ).rename(columns={"as_of": "on"})
    rows = rows.astype({"section_id": object})
    return rows.assign(student=workspace.registry.pseudonyms.of(rows["student_id"])).drop(
        columns="student_id"
    )


def _settled(workspace: Workspace, plan: Plan, gradebook: Gradebook) -> pd.DataFrame:
    """Return the scores of assignments, 0-100, of all students who were enrolled.

    A missed assignment counts 0, as it does in a final grade, also for students who withdrew.
    scored_on is the day from which on predictions may use the score.
    """
    work = coursework(gradebook, placed(gradebook))
    work = work.assign(
        score=worth(work, pd.Timestamp(workspace.as_of), Metric.SCORE),
        scored_on=work[["due_on", "scored_on"]].min(axis=1),
        arrived_on=work["due_on"] + timedelta(days=COURSEWORK.settled),
        student=workspace.registry.pseudonyms.of(work["student_id"]),
    )
    counts = work["score"].notna() & (work["scored_on"] > pd.Timestamp(plan.starts_on))
    return work[counts].reset_index(drop=True)


def _scored(scores: pd.DataFrame, predictions: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the scores with the losses of both arms' earlier predictions, and those without."""
    pairs = newest_before(scores, predictions)
    known = pairs["on"].notna()
    rows = pairs[known]
    length = (rows["ends_on"] - rows["starts_on"]).dt.days.clip(lower=1)
    progress = ((rows["due_on"] - rows["starts_on"]).dt.days / length).clip(0, 1)
    rows = rows.assign(
        course=rows["course_id"],
        item=rows["assignment_id"],
        truth=rows["score"],
        phase=phases(progress),
    )
    alone = pairs[~known]
    return _with_losses(rows), alone.assign(arrived_on=alone["scored_on"])


def _judged(
    over: pd.DataFrame, predictions: pd.DataFrame, metric: Metric
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the outcomes with the mean losses of their weeks, and those without any before."""
    truth, predicted = _TRUTH[metric]
    known = over[over[truth].notna()]
    pairs = known.merge(predictions, on=_SEAT)
    pairs = pairs[pairs["on"] < pairs["arrived_on"]]
    losses = _with_losses(
        pairs.assign(
            truth=pairs[truth].astype("float64"),
            **{arm: pairs[f"{arm}_{predicted}"] for arm in ARMS},
        )
    )
    figures = [*ARMS, *_ERRORS]
    by_seat = losses.groupby([*_SEAT, "course_id", "arrived_on"])
    # If one week is unknown, the mean would be over other weeks than the other arm's.
    whole = by_seat[figures].count().eq(by_seat.size(), axis=0)
    rows = by_seat[figures].mean().where(whole).reset_index()
    rows = rows.rename(columns={"course_id": "course"}).assign(phase="", item=rows["section_id"])
    seats = (pd.MultiIndex.from_frame(frame[_SEAT]) for frame in (known, rows))
    return rows, known[~next(seats).isin(next(seats))]


def _with_losses(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with error and squared error of each arm's prediction (its column)."""
    errors = {arm: rows[arm] - rows["truth"] for arm in ARMS}
    return rows.assign(
        **{f"{arm}_error": error for arm, error in errors.items()},
        **{arm: error**2 for arm, error in errors.items()},
    )
