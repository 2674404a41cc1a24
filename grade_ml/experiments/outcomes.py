"""The outcomes of the students of a split or bandit: labels that arrived up to a day.

Students are compared as they were assigned, whether or not they were helped (intention to treat):
students who withdrew stay, and work that was due afterwards counts as missed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date

import pandas as pd
import sqlalchemy as sa
from sqlalchemy import Connection

from grade_ml.ensemble.evaluation import phases
from grade_ml.ensemble.groups import grouped
from grade_ml.experiments import store
from grade_ml.experiments.assignment import in_two_arms
from grade_ml.experiments.coursework import coursework, placed, worth
from grade_ml.experiments.plan import Metric, Plan
from grade_ml.experiments.population import attributes
from grade_ml.gradebook import schema
from grade_ml.gradebook.frames import Gradebook, read_table
from grade_ml.gradebook.institution import Institution
from grade_ml.gradebook.outcomes import outcomes
from grade_ml.registry.workspace import Workspace

_SEAT, _TERM = ["section_id", "student_id"], ["student_id", "course_id", "term_id"]
#: The columns of each label; columns of protected attributes are added.
LABELS = (
    *("student_id", "arm", "course", "section_id", "phase", "value", "covariate", "exposed_on"),
)


@dataclass(frozen=True)
class Outcomes:
    """The labels of an experiment on a day, and the students who are compared.

    Attributes
    ----------
    labels
        `LABELS` and `protected_…` (the name of a group, or None): one row per assignment or section
        of a student. Value and covariate are in units of the metric; the covariate is the mean
        value before the exposure (NaN: unknown).
    exposed
        Students who are compared, by arm, with or without labels: these sizes are compared with
        the arms' shares.
    excluded
        Students who are not compared, by reason.
    """

    labels: pd.DataFrame
    exposed: Mapping[str, int]
    excluded: Mapping[str, int]

    @property
    def students(self) -> pd.DataFrame:
        """One row per student with labels: the mean value, and how many labels it is a mean of."""
        rows = self.labels.groupby("student_id", as_index=False)
        return rows.agg(
            arm=("arm", "first"),
            value=("value", "mean"),
            covariate=("covariate", "first"),
            labels=("value", "size"),
            exposed_on=("exposed_on", "first"),
        )


def read_outcomes(workspace: Workspace, plan: Plan, metric: Metric | None = None) -> Outcomes:
    """Return the outcomes of the students of an experiment up to the day.

    Parameters
    ----------
    metric
        `None` for the metric of the plan.
    """
    book, exposed, excluded = _compared(workspace, plan)
    labels = measured(
        book,
        exposed,
        plan.courses,
        metric or plan.metric,
        workspace.as_of,
        workspace.institution,
    )
    connection = workspace.connection
    own = attributes(connection, labels, workspace.registry.declared) if len(labels) else labels
    protected = own[[column for column in own if str(column).startswith("protected_")]]
    sizes = exposed["arm"].value_counts()
    return Outcomes(
        grouped(pd.concat([labels, protected], axis=1), "student_id"),
        {arm.name: int(sizes.get(arm.name, 0)) for arm in plan.arms},
        {reason: number for reason, number in excluded.items() if number},
    )


def read_kept(workspace: Workspace, plan: Plan) -> pd.DataFrame:
    """Return student_id, arm and value of all students who are compared.

    Value is the share, 0-1, of a student's enrollments that are neither withdrawn from nor failed
    so far: unlike passing, it is known of every student on every day.
    """
    book, exposed, _ = _compared(workspace, plan)
    known = outcomes(book, workspace.as_of, workspace.institution)
    known = known[[*_SEAT, "at_risk"]].astype(dict.fromkeys(_SEAT, object))
    rows = _seats(book, exposed, plan.courses).merge(known, on=_SEAT, how="left")
    # Running, or of unknown outcome: not lost so far.
    lost = rows["at_risk"].fillna(False).astype(bool)
    value = (~lost).groupby([rows["student_id"], rows["arm"]]).mean()
    return value.rename("value").reset_index()


def _compared(workspace: Workspace, plan: Plan) -> tuple[Gradebook, pd.DataFrame, dict[str, int]]:
    """Return the exposed students' records, the compared students, and the excluded by reason."""
    connection, as_of, name = workspace.connection, workspace.as_of, plan.experiment_id
    days = store.exposures(connection, name, as_of)
    exposed, excluded = first_exposures(store.assignments(connection, name), days)
    book = _read(connection, name, as_of)
    present = exposed["student_id"].isin(book.enrollments["student_id"].astype(object))
    excluded |= {"not in the gradebook any more": int((~present).sum())}
    return book, exposed[present].reset_index(drop=True), excluded


def measured(  # noqa: PLR0913, PLR0917
    book: Gradebook,
    exposed: pd.DataFrame,
    courses: Collection[str],
    metric: Metric,
    as_of: date,
    institution: Institution,
) -> pd.DataFrame:
    """Return `LABELS` as they are known on a day.

    Parameters
    ----------
    book
        All records of the exposed students.
    exposed
        student_id, arm and exposed_on, the day of the first exposure.
    courses
        In which an exposure can have an effect; empty for all.
    """
    labels = LABELLED[metric](book, _seats(book, exposed, courses), as_of, institution)
    labels = labels.rename(columns={"course_id": "course"})
    labels = labels.merge(_covariates(book, exposed, metric), on="student_id")
    return labels[list(LABELS)].sort_values(["student_id", "section_id"], ignore_index=True)


def first_exposures(
    assigned: pd.DataFrame, days: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Return student_id, arm and exposed_on of comparable students, and the excluded by reason.

    Parameters
    ----------
    assigned
        student_id and arm.
    days
        student_id, arm and on_day of each exposure.
    """
    crossed = in_two_arms(assigned, days) & set(days["student_id"].astype(object))
    first = days.groupby("student_id", as_index=False)["on_day"].min()
    rows = first.merge(assigned[["student_id", "arm"]], on="student_id", how="left")
    rows = rows.rename(columns={"on_day": "exposed_on"}).astype({"student_id": object})
    nowhere = rows["arm"].isna()
    excluded = {
        "seen in two arms": len(crossed),
        "exposed without an assignment": int((nowhere & ~rows["student_id"].isin(crossed)).sum()),
    }
    rows = rows[~nowhere & ~rows["student_id"].isin(crossed)]
    return rows.astype({"arm": object}).reset_index(drop=True), excluded


def _read(connection: Connection, name: str, as_of: date) -> Gradebook:
    """Return the records of the exposed students, and all results of exams.

    Whether an exam counts depends on whether any student has a result.
    """
    enrollment, assignment, result = schema.enrollment.c, schema.assignment.c, schema.result.c
    exposure = store.exposure.c
    people = sa.select(exposure.student_id).where(
        exposure.experiment_id == name, exposure.on_day <= as_of
    )
    sections = sa.select(enrollment.section_id).where(enrollment.student_id.in_(people))
    work = sa.select(assignment.assignment_id).where(assignment.section_id.in_(sections))
    exams = work.where(sa.func.lower(assignment.category) == schema.EXAM_CATEGORY)
    return Gradebook(
        sections=read_table(connection, schema.section, schema.section.c.section_id.in_(sections)),
        enrollments=read_table(connection, schema.enrollment, enrollment.student_id.in_(people)),
        assignments=read_table(connection, schema.assignment, assignment.section_id.in_(sections)),
        results=read_table(
            connection,
            schema.result,
            result.assignment_id.in_(work),
            result.student_id.in_(people) | result.assignment_id.in_(exams),
        ),
    )


def _seats(book: Gradebook, exposed: pd.DataFrame, courses: Collection[str]) -> pd.DataFrame:
    """Return the enrollments on which an exposure can have an effect.

    They are those of the day of the first exposure and, if a student moved from one of them to
    another section of the course in the same term, the new enrollment.
    """
    rows = placed(book).merge(exposed, on="student_id")
    if courses:
        rows = rows[rows["course_id"].isin(courses)]
    day = rows["exposed_on"]
    enrolled = (
        (rows["starts_on"] <= day)
        & (day <= rows["ends_on"])
        & ~(rows["enrolled_on"] > day)
        & ~(rows["withdrawn_on"] <= day)
    )
    known = pd.MultiIndex.from_frame(rows.loc[enrolled, _TERM])
    rows = rows[pd.MultiIndex.from_frame(rows[_TERM]).isin(known)]
    length = (rows["ends_on"] - rows["starts_on"]).dt.days.clip(lower=1)
    progress = ((rows["exposed_on"] - rows["starts_on"]).dt.days / length).clip(0, 1)
    return rows.assign(phase=phases(progress)).reset_index(drop=True)


def _of_work(metric: Metric) -> Callable[..., pd.DataFrame]:
    def labelled(book: Gradebook, seats: pd.DataFrame, as_of: date, _: Institution) -> pd.DataFrame:
        work = coursework(book, seats)
        work = work[work["due_on"] > work["exposed_on"]]
        value = worth(work, pd.Timestamp(as_of), metric)
        return work.assign(value=value).dropna(subset="value")

    return labelled


def _passed(
    book: Gradebook, seats: pd.DataFrame, as_of: date, institution: Institution
) -> pd.DataFrame:
    """Return the outcomes of sections that ended; a withdrawal counts when its section has ended.

    Until then only withdrawals are known, and no pass.
    """
    known = outcomes(book, as_of, institution).astype(dict.fromkeys(_SEAT, object))
    known = known[known["at_risk"].notna()]
    rows = seats[seats["ends_on"] < pd.Timestamp(as_of)].merge(known, on=_SEAT)
    return rows.assign(value=1.0 - rows["at_risk"].astype(float))


#: How the labels of each metric are made.
LABELLED = {
    Metric.SCORE: _of_work(Metric.SCORE),
    Metric.SUBMITTED: _of_work(Metric.SUBMITTED),
    Metric.PASSED: _passed,
}


def _covariates(book: Gradebook, exposed: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    """Return student_id and covariate: the mean value on the day of the first exposure.

    The mean is over all labels that counted by then, in any course; for passing, whose history is
    short, it is the mean score.
    """
    before = Metric.SUBMITTED if metric is Metric.SUBMITTED else Metric.SCORE
    work = coursework(book, placed(book).merge(exposed, on="student_id"))
    work = work[~(work["due_on"] > work["withdrawn_on"])]
    values = worth(work, work["exposed_on"], before)
    means = values.groupby(work["student_id"]).mean()
    known = exposed[["student_id"]]
    return known.assign(covariate=known["student_id"].map(means).astype(float))
