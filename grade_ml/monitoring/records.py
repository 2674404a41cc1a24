"""Reads the records of each course: sections, scores, predictions and outcomes on a day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import distinct_on

from grade_ml.core.database import read_frame
from grade_ml.core.pseudonyms import Pseudonyms
from grade_ml.gradebook import schema
from grade_ml.gradebook.catalog import Load, newest_load
from grade_ml.gradebook.frames import Gradebook, read_table
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.monitoring.quality import arrival_delays
from grade_ml.registry.workspace import Workspace
from grade_ml.serving.implied import scores
from grade_ml.serving.predictions import NUMBERS, grade_prediction

#: Sections that ended longer ago are not used for the present model: two terms of half a year.
RECENT_DAYS = 366


@dataclass(frozen=True)
class Records:
    """The records of a course on `as_of`.

    Attributes
    ----------
    sections
        section_id, course_id, starts_on, ends_on of all its sections that had begun.
    scores
        section_id, course_id, student (a pseudonym), assignment_id, category, score (0-100) and
        scored_on of coursework.
    predictions
        The champions' newest prediction per enrollment and week of its section: section_id,
        course_id, student_id, student, on, progress (0-1), model ("pooled 3"), `NUMBERS`.
    outcomes
        section_id, student_id, final_grade, at_risk of the sections that had ended.
    delays
        section_id and days of each result that was submitted: from then to grading, or to the day
        if it is not graded yet.
    load
        The newest load of the gradebook; None if there is none on record.
    """

    as_of: date
    sections: pd.DataFrame
    scores: pd.DataFrame
    predictions: pd.DataFrame
    outcomes: pd.DataFrame
    delays: pd.DataFrame
    load: Load | None

    @property
    def running(self) -> pd.DataFrame:
        """The sections that run on the day."""
        return self.sections[self.sections["ends_on"] >= pd.Timestamp(self.as_of)]

    @property
    def days(self) -> pd.Series:
        """How many days each section lasts, by its id."""
        rows = self.sections.set_index("section_id")
        return (rows["ends_on"] - rows["starts_on"]).dt.days


def all_sections(connection: Connection, as_of: date) -> pd.DataFrame:
    """Return section_id, course_id, starts_on and ends_on of all sections that had begun."""
    rows = read_table(connection, schema.section, schema.section.c.starts_on <= as_of)
    return rows.astype({"section_id": object, "course_id": object})


def read(
    workspace: Workspace, sections: pd.DataFrame, courses: Sequence[str]
) -> dict[str, Records]:
    """Read the records of each of `courses` on the day.

    Parameters
    ----------
    sections
        As `all_sections` returns them.
    """
    connection, as_of = workspace.connection, workspace.as_of
    # The models' held-out rows have the same pseudonyms.
    pseudonyms = workspace.registry.pseudonyms
    own = sections[sections["course_id"].isin(courses)].reset_index(drop=True)
    names = own["section_id"].tolist()
    today = pd.Timestamp(as_of)
    assignments = read_table(
        connection, schema.assignment, schema.assignment.c.section_id.in_(names)
    )
    of_sections = sa.select(schema.assignment.c.assignment_id).where(
        schema.assignment.c.section_id.in_(names)
    )
    results = read_table(connection, schema.result, schema.result.c.assignment_id.in_(of_sections))
    enrollments = read_table(
        connection, schema.enrollment, schema.enrollment.c.section_id.in_(names)
    )
    recent = own[own["ends_on"] >= today - timedelta(days=RECENT_DAYS)]
    ended = recent.loc[recent["ends_on"] < today, "section_id"]
    course_of = own.set_index("section_id")["course_id"]
    frames = {
        "sections": own,
        "scores": scores(results, assignments, own, today, pseudonyms),
        "predictions": _predictions(connection, recent, as_of, pseudonyms),
        "outcomes": _outcomes(
            own, enrollments, assignments, results, as_of, ended, workspace.institution
        ),
        "delays": _delays(results, assignments, as_of),
    }
    divided = {
        kind: dict(iter(rows.groupby(rows["section_id"].map(course_of))))
        for kind, rows in frames.items()
    }
    load = newest_load(connection)
    return {
        name: Records(
            as_of=as_of,
            load=load,
            **{
                kind: divided[kind].get(name, rows.head(0)).reset_index(drop=True)
                for kind, rows in frames.items()
            },
        )
        for name in courses
    }


def serving(connection: Connection, sections: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Return for each course with running sections: enrolled, predicted (students), newest (day).

    Predictions of the newest day are counted; if there are none, `newest` is missing.
    """
    running = sections[sections["ends_on"] >= pd.Timestamp(as_of)]
    names = running["section_id"].tolist()
    enrollment, prediction = schema.enrollment.c, grade_prediction.c
    enrolled = _counted(
        connection,
        sa.select(enrollment.section_id, sa.func.count().label("count"))
        .where(
            enrollment.section_id.in_(names),
            sa.func.coalesce(enrollment.enrolled_on <= as_of, True),
            sa.func.coalesce(enrollment.withdrawn_on > as_of, True),
        )
        .group_by(enrollment.section_id),
    )
    predicted = _counted(
        connection,
        sa.select(prediction.section_id, prediction.as_of, sa.func.count().label("count"))
        .where(prediction.section_id.in_(names), prediction.as_of <= as_of)
        .group_by(prediction.section_id, prediction.as_of),
    )
    course_of = running.set_index("section_id")["course_id"]
    predicted["course_id"] = predicted["section_id"].map(course_of)
    newest = predicted.groupby("course_id")["as_of"].transform("max")
    last = predicted[predicted["as_of"] == newest].groupby("course_id")
    students = enrolled.groupby(enrolled["section_id"].map(course_of))["count"].sum()
    by_course = pd.DataFrame(index=pd.Index(running["course_id"].unique()))
    # These are counts of rows: a course without such rows has 0 of them.
    by_course["enrolled"] = students.reindex(by_course.index).fillna(0).astype(int)
    by_course["predicted"] = last["count"].sum().reindex(by_course.index).fillna(0).astype(int)
    by_course["newest"] = last["as_of"].first().reindex(by_course.index)
    return by_course


def _counted(connection: Connection, query: sa.Select[Any]) -> pd.DataFrame:
    rows = connection.execute(query)
    return pd.DataFrame(rows.all(), columns=list(rows.keys())).astype({"section_id": object})


def _predictions(
    connection: Connection, sections: pd.DataFrame, as_of: date, pseudonyms: Pseudonyms
) -> pd.DataFrame:
    table, section = grade_prediction.c, schema.section.c
    week = sa.func.div(table.as_of - section.starts_on, 7)
    names = ("section_id", "student_id", "as_of", "model_name", "model_version", *NUMBERS)
    newest = (
        sa.select(*(table[name] for name in names))
        .ext(distinct_on(table.section_id, table.student_id, week))
        .join_from(grade_prediction, schema.section, table.section_id == section.section_id)
        .where(
            table.section_id.in_(sections["section_id"].tolist()),
            table.as_of <= as_of,
        )
        .order_by(table.section_id, table.student_id, week, table.as_of.desc())
    )
    rows = read_frame(connection, newest).rename(columns={"as_of": "on"})
    rows = rows.astype({"section_id": object}).merge(sections, on="section_id")
    length = (rows["ends_on"] - rows["starts_on"]).dt.days.clip(lower=1)
    return rows.assign(
        student=pseudonyms.of(rows["student_id"]),
        progress=((rows["on"] - rows["starts_on"]).dt.days / length).clip(0, 1),
        model=rows["model_name"].astype(object) + " " + rows["model_version"].astype(str),
    )[["section_id", "course_id", "student_id", "student", "on", "progress", "model", *NUMBERS]]


def _outcomes(  # noqa: PLR0913, PLR0917 - the tables that decide an outcome
    sections: pd.DataFrame,
    enrollments: pd.DataFrame,
    assignments: pd.DataFrame,
    results: pd.DataFrame,
    as_of: date,
    ended: pd.Series,
    institution: Institution,
) -> pd.DataFrame:
    known = outcomes(
        Gradebook(
            sections=sections.astype({"section_id": "string[pyarrow]"}),
            enrollments=enrollments,
            assignments=assignments,
            results=results,
        ),
        as_of,
        institution,
    )
    rows = known[known["at_risk"].notna()].astype({"section_id": object, "at_risk": bool})
    return rows[rows["section_id"].isin(ended)].reset_index(drop=True)


def _delays(results: pd.DataFrame, assignments: pd.DataFrame, as_of: date) -> pd.DataFrame:
    waits = arrival_delays(results, assignments, datetime.combine(as_of, time(), UTC))
    days = waits["to_grade"].fillna(waits["waiting"])
    return waits[["section_id"]].assign(days=days).dropna()
